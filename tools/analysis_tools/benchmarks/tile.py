"""Time and peak memory of segmenting a large picture in tiles.

The job writes a TIFF, segments it with a model that costs little, a linear classifier
of each pixel, and measures the resident memory of the process. What is measured is
therefore reading, resizing, blending and writing; the time and the memory of a real
model come in addition. It needs the package rasterio, and the system to be Linux. For
example:

  python tools/analysis_tools/benchmark.py tile --size 20000 20000
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from . import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(20000, 20000),
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the picture in pixels (default: 20000 20000)',
    )
    parser.add_argument(
        '--classes',
        type=int,
        default=150,
        metavar='N',
        help='number of classes (default: %(default)s)',
    )
    parser.add_argument(
        '--tile',
        type=int,
        default=512,
        metavar='PIXELS',
        help='height and width of a tile (default: %(default)s)',
    )
    parser.add_argument(
        '--scale',
        type=float,
        default=1.0,
        metavar='FACTOR',
        help='resolution of the model relative to the picture (default: %(default)s)',
    )
    parser.add_argument(
        '--ending',
        choices=('.tif', '.png'),
        default='.tif',
        help='format of the label map (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure in a new process, and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine``, ``seconds``, ``tiles``, ``start_bytes``, the resident memory
        before, and ``peak_bytes``, the largest during the segmentation.
    """
    import torch
    from prettytable import PrettyTable

    context = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
        write_picture(Path(folder) / 'picture.tif', *args.size)
        figures = pool.apply(segment, (Path(folder), args))
    figures['machine'] = measure.machine(torch.device('cpu'))
    table = PrettyTable(
        ['pixels', 'classes', 'tiles', 'seconds', 'megapixels / s', 'peak, GB'],
        align='r',
    )
    height, width = args.size
    table.add_row(
        [
            f'{height} x {width}',
            args.classes,
            figures['tiles'],
            f'{figures["seconds"]:.1f}',
            f'{height * width / 1e6 / figures["seconds"]:.2f}',
            f'{figures["peak_bytes"] / 1e9:.2f}',
        ]
    )
    print(figures['machine'])
    print(table)
    return figures


def write_picture(path: Path, height: int, width: int) -> None:
    """Write an RGB picture as a tiled and compressed TIFF, some rows at a time.

    Args:
        path (Path): The file.
        height (int): Height in pixels.
        width (int): Width in pixels.
    """
    import numpy as np
    import rasterio

    x = np.arange(width)
    options = dict(
        height=height, width=width, count=3, dtype='uint8', driver='GTiff', zlevel=1
    )
    options.update(tiled=True, compress='deflate', crs='EPSG:32633')
    options['transform'] = rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
    with rasterio.open(path, 'w', **options) as file:
        for row in range(0, height, 256):
            y = np.arange(row, min(row + 256, height))[:, None]
            waves = [np.sin(x / a) + np.cos(y / b) for a, b in ((97, 61), (31, 89))]
            bands = [127 + 60 * wave for wave in (*waves, sum(waves) / 2)]
            window = (row, row + len(y)), (0, width)
            file.write(np.asarray(bands, np.uint8), window=window)


def segment(folder: Path, args: argparse.Namespace) -> dict:
    """Segment the picture, and measure this process.

    Args:
        folder (Path): Folder of ``picture.tif``.
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``seconds``, ``tiles``, ``start_bytes`` and ``peak_bytes``.
    """
    from mmmaskdistill.apis.inference.tiling import predict_large

    model = SimpleNamespace(
        task='segmentation',
        model=pixel_segmentor(args.classes, args.tile),
        classes=[f'class {k}' for k in range(args.classes)],
        num_classes=args.classes,
        palette=[[k % 256, 7 * k % 256, 31 * k % 256] for k in range(args.classes)],
        steps=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')],
        preprocessing=SimpleNamespace(load=lambda values: dict(img=values[..., ::-1])),
    )
    start = _memory('VmRSS')
    began = time.perf_counter()
    out = folder / f'labels{args.ending}'
    prediction = predict_large(model, folder / 'picture.tif', out, scale=args.scale)
    return dict(
        seconds=time.perf_counter() - began,
        tiles=prediction.tiles,
        start_bytes=start,
        peak_bytes=_memory('VmHWM'),
    )


def pixel_segmentor(classes: int, tile: int):  # noqa: ANN201
    """Build a segmentor that classifies each pixel by its color alone.

    Args:
        classes (int): Number of classes.
        tile (int): Height and width of its windows.

    Returns:
        BaseSegmentor: The segmentor, in eval mode.
    """
    import torch
    from mmseg.models import BaseSegmentor
    from torch import nn

    import mmmaskdistill  # noqa: F401

    class PixelSegmentor(BaseSegmentor):
        align_corners = False

        def __init__(self):
            preprocessor = dict(
                type='mmseg.SegDataPreProcessor',
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                bgr_to_rgb=True,
            )
            super().__init__(preprocessor)
            self.out_channels = classes
            self.test_cfg = dict(
                mode='slide', crop_size=(tile, tile), stride=(2 * tile // 3,) * 2
            )
            self.layer = nn.Linear(3, classes)
            # Memory that is new for each tile would take longer than its values.
            self.logits = torch.empty(classes, tile * tile)

        def encode_decode(self, inputs: torch.Tensor, metas: list) -> torch.Tensor:
            pixels = inputs[0].flatten(1)
            bias, weight = self.layer.bias[:, None], self.layer.weight
            torch.addmm(bias, weight, pixels, out=self.logits)
            return self.logits.view(1, classes, *inputs.shape[2:])

        extract_feat = loss = predict = _forward = None

    torch.manual_seed(0)
    return PixelSegmentor().eval()


def _memory(name: str) -> int:
    """Read a figure of this process's memory in bytes."""
    status = Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'{name}:\s+(\d+) kB', status)[1])
