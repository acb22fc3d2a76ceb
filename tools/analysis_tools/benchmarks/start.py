"""From the command to the first iteration, beside mmseg's tools/train.py.

Each side is a process of its own, in turn, that trains UperNet of quickstart
size on the same images and ends when its first batch is there. mmseg's side is
what its tools/train.py does without options: a config, mmengine's runner.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import small_run

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

# mmseg's models import compiled operators, which mmcv-lite does not have.
MMSEG = """
import importlib.util, sys, types
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


def add_arguments(parser):
    small_run.add_arguments(parser)
    parser.add_argument(
        '--repeats', type=int, default=5, help='timed starts (%(default)s)'
    )


def run(args) -> dict:
    """Measure both commands and print the table."""
    from prettytable import PrettyTable

    from mmmaskdistill.apis.measure import spread

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
                if repeat:  # the first finds cold files
                    seconds[name].append(took)
    figures = {
        name: dict(seconds=times, **spread(times)) for name, times in seconds.items()
    }
    ours = figures['ours']['median']
    table = PrettyTable(['side', 'seconds (quartiles)', 'times ours'], align='r')
    for name, side in figures.items():
        table.add_row(
            [
                name,
                f'{side["median"]:.2f} ({side["low"]:.2f} to {side["high"]:.2f})',
                f'{side["median"] / ours:.2f}',
            ]
        )
    print(table)
    return dict(sides=figures)


def _start(command: list, folder: Path) -> float:
    """Seconds from a command to its first iteration."""
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
        raise SystemExit(
            f'error: {" ".join(command)} did not come to its '
            f'first iteration:\n{process.stdout[-3000:]}'
        )
    return float(mark.read_text()) - start
