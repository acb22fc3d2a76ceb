"""Time and memory of predicting image files with a trained segmentor.

The job writes a checkpoint of a small UperNet with random weights, and JPEG images. It
compares the predictions of this project, as tools/predict.py makes them, with those of
mmseg's MMSegInferencer for the same files, after a check that the labels are equal. The
memory is what torch allocates at most, for some images and for four times as many. For
example:

  python tools/analysis_tools/benchmark.py predict --images 16
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_line import fail

from . import measure, small_run

TEST = """
model['test_cfg'] = dict(mode='whole')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=({size} * 4, {size}), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')]
test_dataloader = dict(
    dataset=dict(type='ADE20KDataset', pipeline=test_pipeline))
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    parser.add_argument(
        '--images',
        type=int,
        default=8,
        metavar='N',
        help='number of images of a timed call (default: %(default)s)',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        default=512,
        metavar='PIXELS',
        help='height of the images in pixels; the width is 4/3 of it (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='number of images that are computed together (default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=5,
        metavar='N',
        help='number of timed calls of each side (default: %(default)s)',
    )
    parser.add_argument(
        '--device', default='cpu', help='cpu or cuda (default: %(default)s)'
    )


def run(args: argparse.Namespace) -> dict:
    """Measure both sides and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine``, and ``sides`` with, for each side, ``seconds`` (a spread for
        one image, see :func:`.measure.spread`) and ``bytes``, the memory for
        ``images`` and for four times as many.

    Raises:
        SystemExit: If the sides predict other labels.
    """
    import numpy as np
    import torch
    from mmengine.logging import MMLogger
    from prettytable import PrettyTable

    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        small_run.write_data(folder, args.images, args.img_size)
        files = sorted(map(str, (folder / 'images').iterdir()))
        MMLogger.get_current_instance().setLevel('ERROR')
        sides = _sides(_write_trained(folder, args.img_size), args)
        ours, theirs = (list(side(files[:2])) for side in sides.values())
        if not all(np.array_equal(*pair) for pair in zip(ours, theirs)):
            fail('this project and mmseg predict other labels for the same images')

        def consume(side: Callable, count: int = 1) -> None:
            for _ in side(files * count):
                pass

        calls = {k: lambda side=side: consume(side) for k, side in sides.items()}
        # As in the jobs that compare computations, see benchmark.py.
        measure.keep_freed_memory()
        seconds = measure.interleave(calls, args.repeats, device)
        figures = {}
        for name, side in sides.items():
            memory = [
                measure.peak_bytes(lambda s=side, n=n: consume(s, n), device)
                for n in (1, 4)
            ]
            per_image = [value / len(files) for value in seconds[name]]
            figures[name] = dict(seconds=measure.spread(per_image), bytes=memory)
    many = 4 * args.images
    table = PrettyTable(
        [
            'side',
            'ms / image',
            'quartiles',
            'time / ours',
            f'MiB, {args.images} images',
            f'MiB, {many} images',
        ],
        align='r',
    )
    for name, part in figures.items():
        time = part['seconds']
        table.add_row(
            [
                name,
                f'{1e3 * time["median"]:.1f}',
                f'{1e3 * time["low"]:.1f} to {1e3 * time["high"]:.1f}',
                f'{time["median"] / figures["ours"]["seconds"]["median"]:.3f}',
                *(f'{size / 2**20:.0f}' for size in part['bytes']),
            ]
        )
    machine = measure.machine(device)
    print(f'{machine}, images of {args.img_size} rows')
    print(table)
    return dict(machine=machine, sides=figures)


def _write_trained(folder: Path, size: int) -> tuple[str, str]:
    """Write a config and a checkpoint with random weights, and return their paths."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    import mmmaskdistill  # noqa: F401

    path = small_run.write_config(folder, 'config.py', True, size, workers=0)
    path.write_text(path.read_text() + TEST.format(size=size))
    config = Config.fromfile(path)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config.model)
    model.init_weights()
    classes = [f'class {i}' for i in range(small_run.CLASSES)]
    palette = [[i, 255 - i, 128] for i in range(small_run.CLASSES)]
    meta = dict(
        cfg=config.pretty_text, dataset_meta=dict(classes=classes, palette=palette)
    )
    checkpoint = str(folder / 'checkpoint.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return str(path), checkpoint


def _sides(
    trained: tuple[str, str], args: argparse.Namespace
) -> dict[str, Callable[[list[str]], Any]]:
    """Return functions from paths to labels for each side."""
    from mmseg.apis import MMSegInferencer

    from mmmaskdistill.apis import load_model

    model = load_model(trained[1], device=args.device)
    inferencer = MMSegInferencer(*trained, device=args.device)
    inferencer.show_progress = False

    def ours(files: list[str]) -> Any:
        return (r.labels for r in model.stream(files, batch_size=args.batch_size))

    def mmseg(files: list[str]) -> Any:
        return inferencer(files, batch_size=args.batch_size)['predictions']

    return dict(ours=ours, mmseg=mmseg)
