"""Time and memory of UperNet's inference, with sliding windows or on whole images.

The job measures the step from an image to its class map, and compares this
project's UperNet and ViT with mmseg's UperNet and BEiT. It first checks that their
logits are equal. The size of the window is --img-size. Whole images are only equal on
both sides if they have the size of the window, because mmseg's BEiT does not take
others. For example:

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
    parser.add_argument(
        '--mode',
        choices=['slide', 'whole'],
        default='slide',
        help='slide: windows of each image; whole: the image at once, which is as '
        'large as the window without --image (default: %(default)s)',
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
    for model in models.values():
        model.test_cfg.mode = args.mode
    width = args.img_size
    if args.mode == 'slide':
        width = round(width * 4 / 3)
    shape = tuple(args.image or (args.img_size, width))
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
