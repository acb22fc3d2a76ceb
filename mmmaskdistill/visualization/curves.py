"""Training curves."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .figures import DPI, save

SMOOTHING = 0.03  # of a curve's length


def read_scalars(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The numbers of mmengine's `vis_data/scalars.json`, one JSON object a line.

    Where a step occurs twice, as after resuming, the later line counts. A last line that was cut off when a run was killed is left out.

    Returns:
        {name: (steps [n], values [n])}, steps ascending
    """
    lines = Path(path).read_text().splitlines()
    series = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(
                f'{path}, line {number} is not JSON: {line[:40]!r}'
            ) from None
        step = record.pop('step', record.get('iter'))
        if step is None:
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)):
                series[name][step] = value
    return {
        name: tuple(np.array(column) for column in zip(*sorted(values.items())))
        for name, values in series.items()
    }


def read_run(work_dir: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All scalars of a run's work_dir, as by `read_scalars`, over its resumptions: where they overlap, the later counts."""
    curves = defaultdict(dict)
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for name, (steps, values) in read_scalars(path).items():
            curves[name].update(zip(steps, values))
    return {
        name: tuple(np.array(column) for column in zip(*sorted(points.items())))
        for name, points in curves.items()
    }


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean over `window` values [n], fewer at the ends; what is not finite is left out of the means."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    half = window // 2
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    total, count = sums[last] - sums[first], counts[last] - counts[first]
    return np.divide(total, count, out=np.full(len(values), math.nan), where=count > 0)


def draw_curves(curves: dict, path: str | Path, xlabel: str, ylabel: str) -> None:
    """Curves over a common axis, the raw values pale and their moving mean strong.

    Args:
        curves: {name: (x [n], y [n])}
        path: the PNG to write
    """
    figure = Figure(
        figsize=(5.6, 3.2), dpi=DPI, facecolor='white', layout='constrained'
    )
    axes = figure.add_subplot()
    for index, (name, (x, y)) in enumerate(curves.items()):
        mean = smooth(y, max(1, round(SMOOTHING * len(y))))
        axes.plot(x, y, color=f'C{index}', alpha=0.25, linewidth=0.8)
        axes.plot(x, mean, color=f'C{index}', linewidth=1.6, label=name)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.02)
    axes.grid(color='0.9', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False)
    save(figure, path)
