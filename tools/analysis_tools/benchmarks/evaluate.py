"""UperNet's prediction of one image by sliding windows.

From the image to its class map, against mmseg's own UperNet over its BEiT.
The logits are shown to be equal. --img-size is the window.
"""

import torch

from . import sides as common
from .segment import PEERS, segmentors
from .sides import Side


def add_arguments(parser):
    common.add_arguments(parser, PEERS, img_size=512, batch=1)
    parser.add_argument(
        '--image',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='in pixels (default: a window and four thirds of one, as most of '
        'ADE20K: 512 683)',
    )


def run(args) -> dict:
    return common.run(args, build)


def build(args, device) -> dict[str, Side]:
    """Segmentors with the same weights, and images."""
    from mmseg.structures import SegDataSample

    models = segmentors(args, args.img_size, drop_path=0.0)
    shape = tuple(args.image or (args.img_size, round(args.img_size * 4 / 3)))
    images = torch.randn(args.batch, 3, *shape, device=device)

    def logits(model):
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
