"""Count the parameters and floating-point operations of a config's model.

For example:

  python tools/analysis_tools/get_flops.py CONFIG
  python tools/analysis_tools/get_flops.py CONFIG --shape 512 683
  python tools/analysis_tools/get_flops.py CONFIG --memory --batch 64 128

With --memory, the tool instead predicts from shapes how much memory a training step
needs on each GPU, with and without gradient checkpointing (with_cp). No GPU is needed,
and the prediction has not been compared with one. Otherwise the tool runs a
forward pass with one random image on the CPU. A classifier or
segmentor computes its logits. A pre-training model computes what the loss needs:
the predictions of the student and its head, and the features of the teacher; both
are counted separately. Only matrix products and convolutions are counted, and a
multiplication with an addition counts as two operations. A backward pass takes
twice as many operations as a forward pass. The weights are random; no checkpoint is
read.
"""

import argparse
import math
import os.path as osp
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

# command_line.py is in tools/.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))
from command_line import check_options, fail


def count(
    model: 'nn.Module', shape: tuple[int, int], masked: float
) -> dict[str, tuple[int, int]]:
    """Count the parameters and operations of each part of a model.

    Args:
        model (nn.Module): A MaskDistill, a classifier or a segmentor.
        shape (tuple[int, int]): Height and width of the image in pixels.
        masked (float): Share of the patches that pre-training hides, from 0 to 1.

    Returns:
        dict[str, tuple[int, int]]: Number of parameters and number of operations
        per image of each part: ``student and head`` and ``teacher`` of a
        MaskDistill, or else the whole model under the name of its class.
    """
    import torch
    from benchmarks.measure import count_flops

    from mmmaskdistill.models import MaskDistill

    image = torch.randn(1, 3, *shape)
    parts = {type(model).__name__: ([model], lambda: model(image))}
    if isinstance(model, MaskDistill):
        patches = math.prod(model.backbone.grid)
        hidden = torch.arange(patches)[None] < round(masked * patches)
        where = model.counted(hidden)
        view = torch.randn(1, 3, *model.teacher.img_size)
        parts = {
            'student and head': (
                [model.backbone, model.head],
                lambda: model.predictions(image, hidden, where),
            ),
            'teacher': (
                [model.teacher],
                lambda: (
                    model.target(view, where)
                    if model.masking is None
                    else model.teacher.attend(view)
                ),
            ),
        }
    with torch.no_grad():
        return {
            name: (
                sum(p.numel() for m in modules for p in m.parameters()),
                count_flops(forward),
            )
            for name, (modules, forward) in parts.items()
        }


def print_memory(cfg: 'Config', args: argparse.Namespace) -> None:
    """Print the predicted memory of a training step.

    Args:
        cfg (Config): The config.
        args (argparse.Namespace): The command line.
    """
    from prettytable import PrettyTable

    from mmmaskdistill.apis.memory import (
        GPUS,
        RESERVE,
        predict_memory,
        recipe_precision,
        takes_with_cp,
    )
    from mmmaskdistill.errors import ConfigError

    gib = 2**30
    table = PrettyTable(
        [
            'batch',
            'precision',
            'with_cp',
            'parameters',
            'teacher',
            'optimizer',
            'gradients',
            'activations',
            'peak, one GPU',
            'peak, several GPUs',
            'fits into',
        ],
        align='r',
    )
    try:
        for batch in args.batch or [None]:
            for precision in args.precision or [recipe_precision(cfg)]:
                for with_cp in (False, True)[: 1 + takes_with_cp(cfg)]:
                    memory = predict_memory(cfg, batch, precision, with_cp, args.masked)
                    need = memory.distributed_peak + RESERVE
                    fits = [f'{size} GB' for size in GPUS if need <= size * gib]
                    sizes = (*memory[:5], memory.peak, memory.distributed_peak)
                    table.add_row(
                        [
                            memory.batch,
                            precision,
                            'yes' if with_cp else 'no',
                            *(f'{size / gib:.2f}' for size in sizes),
                            fits[0] if fits else 'none',
                        ]
                    )
    except ConfigError as error:
        fail(error)
    print(f'{args.config}: GiB per GPU, predicted, not measured')
    print(table)
    print(
        f'"fits into" is for several GPUs and leaves {RESERVE / gib:.0f} GiB for what '
        'is not predicted: CUDA, its libraries and gaps between tensors.'
    )
    if cfg.get('compile'):
        print('The config has compile=True, but the prediction is without it.')


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="size of the image in pixels (default: the backbone's img_size)",
    )
    parser.add_argument(
        '--masked',
        type=float,
        default=75 / 196,
        metavar='SHARE',
        help='share of the patches that pre-training hides, from 0 to 1 '
        '(default: 75/196)',
    )
    parser.add_argument(
        '--memory',
        action='store_true',
        help='predict the memory of a training step instead (default: off)',
    )
    parser.add_argument(
        '--batch',
        type=int,
        nargs='+',
        metavar='N',
        help='images per GPU in a forward pass, for --memory (default: the batch size '
        'of the config)',
    )
    parser.add_argument(
        '--precision',
        nargs='+',
        choices=['fp32', 'bf16', 'fp16'],
        help='precisions for --memory (default: that of the config)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='settings that override those of the config, for example '
        'model.backbone.arch=large (default: no changes)',
    )
    args = parser.parse_args()
    check_options(args.cfg_options)
    if not osp.isfile(args.config):
        fail(f'config not found: {args.config!r}')
    if not args.memory and (args.batch or args.precision):
        fail('--batch and --precision are for --memory: add --memory')
    if args.batch and min(args.batch) < 1:
        fail(f'--batch {min(args.batch)}: expected at least 1')
    if args.memory and args.shape:
        fail(
            '--memory takes the size of the images from the config: leave --shape out, '
            'or set model.backbone.img_size with --cfg-options'
        )

    # These imports are slow and come last, so that --help answers at once.
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope
    from prettytable import PrettyTable

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.apis.pretraining import make_teachers_random
    from mmmaskdistill.registry import MODELS

    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = load_config(args.config, args.cfg_options)
    if args.memory:
        print_memory(cfg, args)
        return
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    make_teachers_random(cfg.model.get('teacher'))
    shape = args.shape or cfg.model.backbone.get('img_size', 224)
    if isinstance(shape, int):
        shape = (shape, shape)
    model = MODELS.build(cfg.model).eval()

    table = PrettyTable(['part', 'parameters (M)', 'GFLOP per image'], align='r')
    for part, (parameters, flops) in count(model, shape, args.masked).items():
        table.add_row([part, f'{parameters / 1e6:.2f}', f'{flops / 1e9:.2f}'])
    print(f'{args.config}, {shape[0]} x {shape[1]} pixels')
    print(table)


if __name__ == '__main__':
    main()
