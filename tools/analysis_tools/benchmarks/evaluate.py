"""Time and memory of UperNet's inference with sliding windows.

The job measures the step from an image to its class map, and compares this
project's UperNet and ViT with mmseg's UperNet and BEiT. It first checks that their
logits are equal. The size of the window is --img-size. For example:

  python tools/analysis_tools/benchmark.py eval --image 512 1024
"""

import argparse

import torch
from torch import Tensor, nn

from . import sides as common
from .segment import PEERS, segmentors
from .sides import Side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    common.add_arguments(parser, PEERS, img_size=512, batch=1)
    parser.add_argument(
        '--image',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the image in pixels (default: the height of the window and '
        '4/3 of it, which is 512 683 without --img-size, like most images of ADE20K)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure all sides and print the table, see :func:`.sides.run`."""
    return common.run(args, build)


def build(args: argparse.Namespace, device: torch.device) -> dict[str, Side]:
    """Build segmentors with the same weights and images.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the models and images.

    Returns:
        dict[str, Side]: The sides by name, ``ours`` first.
    """
    from mmseg.structures import SegDataSample

    models = segmentors(args, args.img_size, drop_path=0.0)
    shape = tuple(args.image or (args.img_size, round(args.img_size * 4 / 3)))
    images = torch.randn(args.batch, 3, *shape, device=device)

    def logits(model: nn.Module) -> Tensor:
        samples = [
            SegDataSample(
                metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
            )
            for _ in images
        ]
        with torch.no_grad():
            results = model.predict(images, samples)
        return torch.stack([result.seg_logits.data for result in results])

    return {
        name: Side(lambda model=model: logits(model), model.to(device).eval())
        for name, model in models.items()
    }
