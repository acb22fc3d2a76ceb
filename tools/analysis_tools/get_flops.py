"""Count parameters and floating-point operations of a config's model.

    python tools/analysis_tools/get_flops.py CONFIG [--shape 512 683]

One image goes forward on the CPU: to the logits, or, in pre-training, through
the student with its head and through the teacher. Counted are matrix products
and convolutions, a multiplication and an addition being two; a backward takes
twice as many.
"""
import argparse
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
    from mmmaskdistill.models import MaskDistill

    image = torch.randn(1, 3, *shape)
    parts = {type(model).__name__: ([model], lambda: model(image))}
    if isinstance(model, MaskDistill):
        grid = model.backbone.patch_resolution
        hidden = torch.arange(grid[0] * grid[1]) < round(
            masked * grid[0] * grid[1])
        parts = {
            'student and head':
            ([model.backbone, model.head],
             lambda: model.head(model.backbone(image, hidden[None]))),
            'teacher': ([model.teacher], lambda: model.teacher(
                torch.randn(1, 3, *(side * model.teacher.stride
                                    for side in model.teacher.grid)))),
        }
    with torch.no_grad():
        return {
            name: (sum(p.numel() for m in modules for p in m.parameters()),
                   count_flops(forward))
            for name, (modules, forward) in parts.items()
        }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="image in pixels (default: the backbone's img_size)")
    parser.add_argument(
        '--masked',
        type=float,
        default=75 / 196,
        help='part of the patches that pre-training hides (default: 75/196)')
    parser.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE',
        help='override settings of the config')
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
    if cfg.model.get('teacher', {}).get('model_name'):
        # Operations do not depend on the weights.
        cfg.model.teacher.update(pretrained='random', checkpoint=None)
    shape = args.shape or cfg.model.backbone.get('img_size', 224)
    if isinstance(shape, int):
        shape = (shape, shape)
    model = MODELS.build(cfg.model).eval()

    table = PrettyTable(
        ['part', 'parameters (M)', 'GFLOP an image'], align='r')
    for part, (parameters, flops) in count(model, shape, args.masked).items():
        table.add_row([part, f'{parameters / 1e6:.2f}', f'{flops / 1e9:.2f}'])
    print(f'{args.config}, {shape[0]} x {shape[1]} pixels')
    print(table)


if __name__ == '__main__':
    main()
