"""Write the table of configs/unified/README.md from the configs beside it."""

import argparse
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / 'configs' / 'unified'
BEGIN, END = '<!-- methods -->\n', '<!-- end of methods -->\n'
# Sizes, which follow from ViT-B/16 and 224 pixels, and defaults that the
# names of the parts already say.
SIZES = {
    'type',
    'arch',
    'img_size',
    'patch_size',
    'in_channels',
    'out_channels',
    'vocab_size',
    'input_size',
    'min_num_patches',
    'min_aspect',
}
NAMES = {
    'model_name': '',
    'num_masking_patches': 'patches',
    'drop_path_rate': 'drop path',
    'layer_scale_init_value': 'layer scale',
    'use_abs_pos_emb': 'absolute position',
    'use_shared_rel_pos_bias': 'relative position',
}


def describe(part):
    """A part's type, and what sets it apart from others of the type."""
    words = [f'`{part["type"].rpartition(".")[2]}`']
    for key, value in part.items():
        name = NAMES.get(key, key.replace('_', ' '))
        if key in SIZES or (key == 'drop_path_rate' and not value):
            continue
        if value is True:
            words.append(name)
        else:
            words.append(f'{name} {value}'.strip() if value else f'no {name}')
    return ', '.join(words)


def row(path):
    """One line of the table."""
    from mmengine.config import Config

    cfg = Config.fromfile(path, format_python_code=False)
    model = cfg.model
    mask = model.get('masking') or cfg.train_pipeline[-2]
    predict = model.get('predict', 'hidden')
    cells = [
        f'[{cfg.method.name}]({path.name})',
        describe(model.teacher),
        describe(model.normalizer),
        describe(model.backbone),
        describe(model.head),
        f'{describe(model.loss)}; {predict} patches',
        describe(mask),
        cfg.method.source,
    ]
    return f'| {" | ".join(cells)} |\n'


def table(folder=FOLDER):
    """The table of all configs in a folder."""
    import mmmaskdistill  # noqa: F401  before configs are read

    head = ['method', 'T', 'N', 'S', 'H', 'L', 'mask', 'source']
    return f'| {" | ".join(head)} |\n{"|---" * len(head)}|\n' + ''.join(
        row(path) for path in sorted(folder.glob('*.py'))
    )


def rewrite(readme, new):
    """The text with the table between its marks replaced."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + '\n' + new + '\n' + END + rest.split(END)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; fail if the table is not up to date',
    )
    args = parser.parse_args()
    path = FOLDER / 'README.md'
    old = path.read_text()
    new = rewrite(old, table())
    if not args.check:
        path.write_text(new)
    elif new != old:
        sys.exit(f'{path} is not up to date: run python {sys.argv[0]}')


if __name__ == '__main__':
    main()
