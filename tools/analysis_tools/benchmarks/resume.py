"""Resuming a segmentation run late, beside mmengine's loop.

Seconds from the runner's construction to the first iteration after resuming.
mmengine's loop first loads the batches that were trained on: it is measured at
few iterations, and what it takes at --at is extrapolated from their slope.
Ours is measured there. Both must come to the same images.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from . import small_run


def add_arguments(parser):
    parser.add_argument(
        '--at', type=int, default=100000, help='iteration to resume at (%(default)s)'
    )
    parser.add_argument(
        '--few',
        type=int,
        nargs='+',
        default=[200, 400, 800],
        help="iterations that mmengine's loop is measured at, two or more "
        '(%(default)s)',
    )
    small_run.add_arguments(parser)
    parser.add_argument(
        '--repeats', type=int, default=3, help='timed resumes (%(default)s)'
    )


def run(args) -> dict:
    """Measure both loops and print the table."""
    import numpy as np
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.runner import Runner
    from prettytable import PrettyTable

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import measure
    from mmmaskdistill.engine import ResumableRunner

    if len(set(args.few)) < 2:
        raise SystemExit('error: --few: a slope needs two iterations')
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
                    raise SystemExit(
                        f'error: at iteration {iteration} ours goes on with '
                        f'{images[0]}, mmengine with {images[-1]}'
                    )
    medians = {
        name: {i: median(times) for i, times in by_iteration.items()}
        for name, by_iteration in seconds.items()
    }
    slope, offset = np.polyfit(few, [medians['mmengine'][i] for i in few], 1)
    table = PrettyTable(
        ['resumed at', 'ours, seconds', "mmengine's, seconds"], align='r'
    )
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
    """The first iteration is about to run."""


def _write_checkpoint(cfg, path: Path, iteration: int):
    """What mmengine saves after an iteration."""
    from mmengine.runner import Runner

    runner = _build(Runner, cfg, path.stem)
    runner.train_loop._iter = iteration - 1  # saving counts the current one
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)


def _build(runner_class, cfg, name: str, **options):
    from copy import deepcopy

    cfg = deepcopy(cfg)
    cfg.update(options)
    _build.count += 1
    cfg.experiment_name = f'{name}_{_build.count}'
    return runner_class.from_cfg(cfg)


_build.count = 0


def _resume(runner_class, cfg, checkpoint: Path) -> tuple[float, list[str]]:
    """Seconds to the first iteration, and the images that it takes."""
    from mmengine.hooks import Hook

    class Stop(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
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
