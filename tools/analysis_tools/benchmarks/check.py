"""Time of the check of data and config before training.

The quick check compares the names of all files and reads a sample of them, at each
start of tools/train.py. The complete one reads all files, as
tools/analysis_tools/check_data.py does. The job measures the quick check on many
names, how many labels one process reads in a second, and how many images together
with their labels. It also measures the complete check a second time, when its cache
knows the files. For example:

  python tools/analysis_tools/benchmark.py check --names 20000 --files 1000
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from . import measure, small_run

# Files that are written; the others are links to them.
DIFFERENT = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    parser.add_argument(
        '--names',
        type=int,
        default=20_000,
        metavar='N',
        help='number of labels, and of images, of the quick check (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--files',
        type=int,
        default=1000,
        metavar='N',
        help='number of labels, and of images, of the complete check (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        default=512,
        metavar='PIXELS',
        help='side of images and labels in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=3,
        metavar='N',
        help='number of timed checks of each kind (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure the checks and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine``, and ``checks`` with, for each kind of check, the number of
        ``files`` and the medians of ``seconds`` and ``cpu_seconds``.
    """
    import torch
    from prettytable import PrettyTable

    from mmmaskdistill.apis import checks
    from mmmaskdistill.apis.configs import load_config

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        many, few = folder / 'many', folder / 'few'
        for part, count in ((many, args.names), (few, args.files)):
            part.mkdir()
            write_data(part, count, args.img_size)
        quick = load_config(_write_config(many, args.img_size))
        full = load_config(_write_config(few, args.img_size))
        labels = sorted((few / 'annotations').iterdir())
        cache = folder / 'cache.json'

        def complete(cache: Path | None = None) -> None:
            checks.check(
                full, ['train_dataloader'], complete=True, workers=1, cache=cache
            )

        complete(cache)
        for name, count, call in (
            ('quick', args.names, lambda: checks.check(quick, ['train_dataloader'])),
            ('labels', args.files, lambda: checks.inspect_labels(labels, workers=1)),
            ('complete', args.files, complete),
            ('complete again', args.files, lambda: complete(cache)),
        ):
            figures[name] = dict(files=count, **_time(call, args.repeats))
    table = PrettyTable(
        ['check', 'files', 'seconds', 'CPU seconds', 'files / CPU second'], align='r'
    )
    for name, part in figures.items():
        rate = part['files'] / part['cpu_seconds']
        table.add_row(
            [
                name,
                part['files'],
                f'{part["seconds"]:.2f}',
                f'{part["cpu_seconds"]:.2f}',
                f'{rate:.0f}',
            ]
        )
    machine = measure.machine(torch.device('cpu'))
    print(f'{machine}, one process, {args.img_size} x {args.img_size} pixels')
    print(table)
    return dict(machine=machine, checks=figures)


def write_data(folder: Path, count: int, size: int) -> None:
    """Write JPEG images and PNG labels, most of which are links to the first ones.

    Args:
        folder (Path): Folder in which ``images`` and ``annotations`` are made.
        count (int): Number of images.
        size (int): Height and width in pixels.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ('images', 'annotations'):
        (folder / name).mkdir()
    y, x = np.mgrid[:size, :size]
    for k in range(min(count, DIFFERENT)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        image = coarse.resize((size, size), Image.BICUBIC)
        image.save(folder / f'images/{k:06}.jpg', quality=90)
        # Regions with curved borders, as labels have them.
        waves = np.sin(x / (30 + k)) + np.cos(y / 17 + x / (50 + k))
        labels = ((waves + 2) * 37).astype(np.uint8)
        Image.fromarray(labels).save(folder / f'annotations/{k:06}.png')
    for k in range(DIFFERENT, count):
        for name, ending in (('images', 'jpg'), ('annotations', 'png')):
            first = folder / name / f'{k % DIFFERENT:06}.{ending}'
            os.link(first, folder / name / f'{k:06}.{ending}')


def _write_config(folder: Path, size: int) -> str:
    return str(small_run.write_config(folder, 'config.py', True, size, workers=0))


def _time(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the median wall-clock and CPU seconds of a function after a first call."""
    call()
    seconds, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        call()
        cpu.append(time.process_time() - used)
        seconds.append(time.perf_counter() - start)
    return dict(seconds=median(seconds), cpu_seconds=median(cpu))
