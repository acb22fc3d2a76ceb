"""The machine, the versions and the commit that a report was measured with."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from command_line import fail

ROOT = Path(__file__).resolve().parents[3]

# Prints the device and the versions. It runs in a process of its own, because a process
# that has asked for the name of a GPU occupies memory of it until its end.
PROBE = """
import json, sys, torch
from benchmarks import measure
if sys.argv[1] == 'cpu':
    found = dict(name=measure.processor(), memory=None)
elif torch.cuda.is_available():
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    found = dict(name=properties.name, memory=properties.total_memory)
    found['in_use'] = total - free
else:
    found = None
if found:
    found.update(torch=torch.__version__, cuda=torch.version.cuda)
print(json.dumps(found))
"""
# A process that uses a GPU occupies about this many bytes of it.
OWN_MEMORY = 2**30
IN_USE = (
    '{:.1f} GiB of the GPU were in use when the report began: if other processes '
    'compute on it, the measured times are too long'
)


def describe(device: str) -> dict:
    """Describe the machine.

    Args:
        device (str): ``cuda`` or ``cpu``.

    Returns:
        dict: ``device``, ``name`` (of the GPU, or of the processor), ``memory`` of the
        GPU in bytes, ``in_use`` (the part of it that other processes occupy), the
        versions of ``torch``, ``cuda``, the ``driver`` and ``python``, the number of
        CPU ``cores`` and the ``commit``. What does not exist is None.

    Raises:
        SystemExit: If there is no GPU, or torch cannot be imported.
    """
    probe = subprocess.run(
        [sys.executable, '-c', PROBE, device],
        env=environment(ROOT / 'tools/analysis_tools'),
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        lines = probe.stderr.strip().splitlines() or ['no message']
        fail(f'{sys.executable} cannot run torch: {lines[-1]}')
    found = json.loads(probe.stdout.splitlines()[-1])
    if found is None:
        fail(
            '--device cuda, but torch finds no GPU: use a machine with a GPU and a '
            'torch that is built for CUDA, or add --device cpu'
        )
    in_use = found.pop('in_use', 0)
    return dict(
        device=device,
        **found,
        in_use=in_use if in_use > OWN_MEMORY else None,
        driver=_driver() if device == 'cuda' else None,
        python='.'.join(map(str, sys.version_info[:3])),
        cores=len(os.sched_getaffinity(0)),
        commit=commit(ROOT),
    )


def environment(*folders: Path) -> dict[str, str]:
    """Return environment variables with which Python imports from folders first."""
    paths = [*map(str, folders), os.environ.get('PYTHONPATH')]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}


def commit(root: Path) -> str:
    """Name the state of the checkout.

    Args:
        root (Path): Folder of the checkout.

    Returns:
        str: The commit; with changes since then, a digest of them is added. Without
        git, it is a digest of all Python files.
    """
    head = _output('git', '-C', root, 'rev-parse', '--short=10', 'HEAD')
    if head is None:
        files = sorted(
            file
            for folder in ('mmmaskdistill', 'tools', 'tests', 'configs')
            for file in (root / folder).rglob('*.py')
        )
        return f'unknown, sources {_digest(b"".join(f.read_bytes() for f in files))}'
    changes = _output('git', '-C', root, 'diff', 'HEAD')
    return f'{head} with changes {_digest(changes.encode())}' if changes else head


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _driver() -> str | None:
    query = '--query-gpu=driver_version'
    found = _output('nvidia-smi', query, '--format=csv,noheader')
    return found.splitlines()[0] if found else None


def _output(*command) -> str | None:
    """Return what a command prints, None if it is missing or fails."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            errors='replace',
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
