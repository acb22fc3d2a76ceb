"""Find the metrics of a checkpoint for its model card."""

import json
import math
import os.path as osp
import re
from pathlib import Path
from typing import Any

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models.checkpoints.files import latest_checkpoint

# What mmengine writes next to metrics.
NO_METRICS = ('step', 'time', 'data_time', 'memory', 'epoch', 'iter')


def read_metrics(path: str) -> dict[str, float]:
    """Read the metrics that ``tools/test.py --out`` has written.

    Args:
        path (str): A JSON file, an object whose numbers are metrics. Lists and objects
            in it, such as those of single classes, are left out.

    Returns:
        dict[str, float]: The metrics by their names.

    Raises:
        ConfigError: If the file does not exist or has no metrics.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'--metrics {path!r} cannot be read: {error}') from error
    metrics = _numbers(content) if isinstance(content, dict) else {}
    if not metrics:
        raise ConfigError(
            f'--metrics {path!r} has no metrics: expected a JSON object with numbers, '
            'as tools/test.py --out metrics.json writes it'
        )
    return metrics


def find_metrics(checkpoint: str) -> tuple[dict[str, float], str]:
    """Find the metrics of a checkpoint's validation in the logs next to it.

    Args:
        checkpoint (str): A checkpoint such as ``iter_160000.pth`` or the work dir.

    Returns:
        tuple[dict[str, float], str]: The metrics, none if there are none, and where
        they are from.
    """
    path = checkpoint
    if osp.isdir(path):
        path = latest_checkpoint(path) or ''
    elif osp.basename(path) == 'last_checkpoint':
        path = latest_checkpoint(osp.dirname(path)) or ''
    named = re.search(r'(?:iter|epoch)_(\d+)\.pth$', path)
    metrics = {}
    if named and '://' not in path:
        logs = Path(path).parent.glob('*/vis_data/scalars.json')
        for log in sorted(logs):
            for line in log.read_text(encoding='utf-8', errors='replace').splitlines():
                metrics = _validation(line, int(named[1])) or metrics
    return metrics, 'of the validation during training'


def _validation(line: str, step: int) -> dict[str, float]:
    """Return the metrics in a line of a log, if it is that of a validation."""
    try:
        record = json.loads(line)
    except ValueError:  # a run was killed while it wrote the line
        return {}
    if not isinstance(record, dict) or 'lr' in record or record.get('step') != step:
        return {}
    return _numbers(record)


def _numbers(content: dict[str, Any]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in content.items()
        if name not in NO_METRICS
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    }
