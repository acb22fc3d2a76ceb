"""Count parameters and floating-point operations of a config's model.

    python tools/analysis_tools/get_flops.py CONFIG [--shape 512 683]

One image goes forward on the CPU: to the logits, or, in pre-training, through
the student with its head and through the teacher, as far as the loss needs
them. Counted are matrix products and convolutions, a multiplication and an
addition being two; a backward takes twice as many. No weights are read.
"""

import argparse
import math
import os.path as osp
import sys


def count(model, shape, masked):
    """Parameters and operations of the parts of a model.

    Args:
        model (nn.Module): A MaskDistill, a classifier or a segmentor.
        shape (tuple[int, int]): Height and width of the image.
        masked (float): Part of the patches that pre-training hides.

    Returns:
        dict[str, tuple[int, int]]: (parameters, operations) by part.
    """
    import torch

    from mmmaskdistill.apis.measure import count_flops
    from mmmaskdistill.models import CachedTeacher, MaskDistill

    image = torch.randn(1, 3, *shape)
    parts = {type(model).__name__: ([model], lambda: model(image))}
    if isinstance(model, MaskDistill):
        teacher = model.teacher
        if isinstance(teacher, CachedTeacher):
            teacher = teacher.teacher
        hidden = torch.arange(math.prod(teacher.grid))[None] < round(
            masked * math.prod(teacher.grid)
        )
        where = model._where(hidden)
        first = getattr(teacher, 'teachers', [teacher])[0]  # of a TeacherList
        view = torch.randn(1, 3, *(side * first.stride for side in first.grid))
        parts = {
            'student and head': (
                [model.backbone, model.head],
                lambda: model._predict(image, hidden, where),
            ),
            'teacher': (
                [teacher],
                lambda: (
                    teacher.at(view, where) if model._teacher_skips else teacher(view)
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


def forget_weights(cfg):
    """Give random weights to a teacher and those within: none are read.

    Args:
        cfg (dict | list | None): Config of a teacher, or of a part of it.
    """
    if isinstance(cfg, list):
        for part in cfg:
            forget_weights(part)
    elif isinstance(cfg, dict):
        kind = str(cfg.get('type')).split('.')[-1]
        if kind == 'TimmTeacher':
            cfg.update(pretrained='random', checkpoint=None)
        elif kind in ('DALLETeacher', 'VQKDTeacher'):
            cfg.update(pretrained='random')
        for part in cfg.values():
            forget_weights(part)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="image in pixels (default: the backbone's img_size)",
    )
    parser.add_argument(
        '--masked',
        type=float,
        default=75 / 196,
        help='part of the patches that pre-training hides (default: 75/196)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    args = parser.parse_args()
    if not osp.isfile(args.config):
        sys.exit(f'error: config not found: {args.config!r}')

    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope
    from prettytable import PrettyTable

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.registry import MODELS

    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    forget_weights(cfg.model.get('teacher'))
    shape = args.shape or cfg.model.backbone.get('img_size', 224)
    if isinstance(shape, int):
        shape = (shape, shape)
    model = MODELS.build(cfg.model).eval()

    table = PrettyTable(['part', 'parameters (M)', 'GFLOP an image'], align='r')
    for part, (parameters, flops) in count(model, shape, args.masked).items():
        table.add_row([part, f'{parameters / 1e6:.2f}', f'{flops / 1e9:.2f}'])
    print(f'{args.config}, {shape[0]} x {shape[1]} pixels')
    print(table)


if __name__ == '__main__':
    main()
