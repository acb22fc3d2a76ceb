"""Time from the start of the training command to its first iteration.

The job compares tools/train.py of this project with tools/train.py of mmseg. Each
run is a separate process that trains an UperNet of the quickstart's size on the
same images. It ends as soon as the first batch is loaded. The side of mmseg does
what mmseg's tools/train.py does without options: it reads a config and starts
mmengine's runner. For example:

  python tools/analysis_tools/benchmark.py start --repeats 3
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command_line import fail

from . import measure, small_run

ROOT = Path(__file__).resolve().parents[3]

HOOK = """
import os, time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class FirstIteration(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with open(os.environ['FIRST_ITERATION'], 'w') as file:
            file.write(repr(time.time()))
        os._exit(0)
"""

# mmseg's models import compiled operators, which mmcv-lite does not have. If they
# are missing, the script imports mmcv.ops with a placeholder in their place. Python
# 3.14 removed find_loader, which mmengine 0.10.7 only compares with None.
MMSEG = """
import importlib.util, pkgutil, sys, types
if not hasattr(pkgutil, 'find_loader'):
    pkgutil.find_loader = importlib.util.find_spec
if importlib.util.find_spec('mmcv._ext') is None:
    class Missing(types.ModuleType):
        def __getattr__(self, name):
            return None
    sys.modules['mmcv._ext'] = Missing('mmcv._ext')
    import mmcv.ops
    del sys.modules['mmcv._ext']
from mmengine.config import Config
from mmengine.runner import Runner
Runner.from_cfg(Config.fromfile(sys.argv[1])).train()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    small_run.add_arguments(parser)
    parser.add_argument(
        '--repeats',
        type=int,
        default=5,
        metavar='N',
        help='number of timed starts of each side (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure both commands and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``sides``, with the times of each side in seconds.
    """
    from prettytable import PrettyTable

    seconds = dict(ours=[], mmseg=[])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        small_run.write_data(folder, args.images, args.img_size)
        (folder / 'first_iteration.py').write_text(HOOK)
        (folder / 'mmseg_train.py').write_text(MMSEG)
        commands = {}
        for name, script in [
            ('ours', ROOT / 'tools/train.py'),
            ('mmseg', folder / 'mmseg_train.py'),
        ]:
            config = small_run.write_config(
                folder,
                f'train_{name}.py',
                name == 'ours',
                args.img_size,
                args.workers,
                ['first_iteration'],
                [dict(type='FirstIteration')],
            )
            commands[name] = [sys.executable, str(script), str(config)]
        for repeat in range(args.repeats + 1):
            for name, command in commands.items():
                took = _start(command, folder)
                # The first start is not timed, because it has to read the files
                # from disk.
                if repeat:
                    seconds[name].append(took)
    figures = {
        name: dict(seconds=times, **measure.spread(times))
        for name, times in seconds.items()
    }
    reference = figures['ours']['median']
    table = PrettyTable(['side', 'seconds (quartiles)', 'time / ours'], align='r')
    for name, side in figures.items():
        table.add_row(
            [
                name,
                f'{side["median"]:.2f} ({side["low"]:.2f} to {side["high"]:.2f})',
                f'{side["median"] / reference:.2f}',
            ]
        )
    print(table)
    return dict(sides=figures)


def _start(command: list, folder: Path) -> float:
    """Return the seconds from the start of a command to its first iteration."""
    mark = folder / 'first_iteration'
    mark.unlink(missing_ok=True)
    path = [str(folder), str(ROOT), os.environ.get('PYTHONPATH', '')]
    start = time.time()
    process = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(path),
            'FIRST_ITERATION': str(mark),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not mark.is_file():
        print(process.stdout[-3000:], file=sys.stderr)
        fail(
            f'{" ".join(command)} did not reach its first iteration. Its last output '
            'is printed above'
        )
    return float(mark.read_text()) - start
