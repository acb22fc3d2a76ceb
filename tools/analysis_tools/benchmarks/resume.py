"""Time to resume a segmentation run that was stopped late.

The job measures the time from building the runner to the first iteration after
resuming. It compares this project's runner with mmengine's. mmengine first loads
all batches that the run has already used, which takes long. It is therefore
measured only at the early iterations of --few, and its time at iteration --at is
extrapolated linearly. This project's runner is measured at all these iterations.
The job checks that both runners continue with the same images. For example:

  python tools/analysis_tools/benchmark.py resume --at 100000
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from command_line import fail

from . import measure, small_run

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    parser.add_argument(
        '--at',
        type=int,
        default=100000,
        metavar='N',
        help='iteration at which the run is resumed (default: %(default)s)',
    )
    parser.add_argument(
        '--few',
        type=int,
        nargs='+',
        default=[200, 400, 800],
        metavar='N',
        help='two or more iterations at which mmengine is measured '
        '(default: %(default)s)',
    )
    small_run.add_arguments(parser)
    parser.add_argument(
        '--repeats',
        type=int,
        default=3,
        metavar='N',
        help='number of timed resumes at each iteration (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure both runners and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: The times in seconds and their medians by runner and iteration, and
        the time extrapolated for mmengine.

    Raises:
        SystemExit: If ``--few`` has fewer than two iterations, or the runners do
            not continue with the same images.
    """
    import numpy as np
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.runner import Runner
    from prettytable import PrettyTable

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.engine import ResumableRunner

    if len(set(args.few)) < 2:
        fail(
            '--few: expected at least two different iterations, which the '
            'extrapolation needs'
        )
    MMLogger.get_current_instance().setLevel('ERROR')
    runners = dict(ours=ResumableRunner, mmengine=Runner)
    few = sorted(set(args.few))
    seconds = {name: {iteration: [] for iteration in few} for name in runners}
    seconds['ours'][args.at] = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        small_run.write_data(folder, args.images, args.img_size)
        config = small_run.write_config(
            folder, 'run.py', True, args.img_size, args.workers
        )
        cfg = Config.fromfile(config)
        for iteration in seconds['ours']:
            _write_checkpoint(cfg, folder / f'{iteration}.pth', iteration)
        for _ in range(args.repeats):
            for iteration in seconds['ours']:
                images = []
                for name in runners:
                    if iteration in seconds[name]:
                        took, found = _resume(
                            runners[name], cfg, folder / f'{iteration}.pth'
                        )
                        seconds[name][iteration].append(took)
                        images.append(found)
                if images[0] != images[-1]:
                    fail(
                        f'at iteration {iteration} this project continues '
                        f'with {images[0]}, mmengine with {images[-1]}'
                    )
    medians = {
        name: {i: median(times) for i, times in by_iteration.items()}
        for name, by_iteration in seconds.items()
    }
    slope, offset = np.polyfit(few, [medians['mmengine'][i] for i in few], 1)
    table = PrettyTable(['resumed at', 'seconds, ours', 'seconds, mmengine'], align='r')
    for i in few:
        table.add_row([i] + [f'{medians[n][i]:.2f}' for n in runners])
    expected = offset + slope * args.at
    table.add_row(
        [args.at, f'{medians["ours"][args.at]:.2f}', f'{expected:.0f} (extrapolated)']
    )
    print(table)
    cpu = torch.device('cpu')
    print(f'{measure.machine(cpu)}; data loaded by {args.workers} workers')
    return dict(
        machine=measure.machine(cpu),
        seconds=seconds,
        medians=medians,
        extrapolated=dict(mmengine=expected, seconds_per_iteration=slope, at=args.at),
    )


class _Reached(Exception):
    """Raised when the first iteration is about to run."""


def _write_checkpoint(cfg: 'Config', path: Path, iteration: int):
    """Write the checkpoint that mmengine saves after an iteration."""
    from mmengine.runner import Runner

    runner = _build(Runner, cfg, path.stem)
    # save_checkpoint writes the number of the current iteration plus one.
    runner.train_loop._iter = iteration - 1
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)


def _build(runner_class: type['Runner'], cfg: 'Config', name: str, **options):
    from copy import deepcopy

    cfg = deepcopy(cfg)
    cfg.update(options)
    _build.count += 1
    cfg.experiment_name = f'{name}_{_build.count}'
    return runner_class.from_cfg(cfg)


_build.count = 0


def _resume(
    runner_class: type['Runner'], cfg: 'Config', checkpoint: Path
) -> tuple[float, list[str]]:
    """Return the seconds up to the first iteration, and the images of its batch."""
    from mmengine.hooks import Hook

    class Stop(Hook):
        def before_train_iter(
            self, runner: 'Runner', batch_idx: int, data_batch: dict | None = None
        ) -> None:
            assert runner.iter == int(checkpoint.stem)
            raise _Reached([s.img_path for s in data_batch['data_samples']])

    start = time.perf_counter()
    runner = _build(runner_class, cfg, 'resume', load_from=str(checkpoint), resume=True)
    runner.register_hook(Stop(), 'LOWEST')
    try:
        runner.train()
    except _Reached as reached:
        return time.perf_counter() - start, reached.args[0]
    raise AssertionError('no iteration ran')
