"""Write the table of methods in configs/unified/README.md.

Each config in configs/unified becomes one row, which lists the teacher T, the
normalizer N, the student S, the head H, the loss L and the mask of the method.
Run the tool after each change of these configs:

  python tools/analysis_tools/list_methods.py
"""

import argparse
import sys
from pathlib import Path

# command_line.py is in tools/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from command_line import fail

FOLDER = Path(__file__).parents[2] / 'configs' / 'unified'
BEGIN, END = '<!-- methods -->\n', '<!-- end of methods -->\n'
# Options that the table leaves out: sizes that follow from the model and from images of
# 224 pixels, pixel values, and defaults that the type of the part implies.
SIZES = {
    'type',
    'arch',
    'img_size',
    'patch_size',
    'in_channels',
    'out_channels',
    'channels',
    'stage_cfgs',
    'views',
    'vocab_size',
    'input_size',
    'min_num_patches',
    'min_aspect',
}
# Words for options in the table. With an empty word, only the value is shown; an
# option that is missing here is shown under its own name.
NAMES = {
    'model_name': '',
    'num_masking_patches': 'patches',
    'drop_path_rate': 'drop path',
    'layer_scale_init_value': 'layer scale',
    'use_abs_pos_emb': 'absolute position',
    'use_shared_rel_pos_bias': 'relative position',
}


def describe(part: dict) -> str:
    """Describe a part of a method for a cell of the table.

    Args:
        part (dict): Config of the part.

    Returns:
        str: The part's type, followed by those options that are worth a mention.
    """
    words = [f'`{part["type"].rpartition(".")[2]}`']
    for key, value in part.items():
        name = NAMES.get(key, key.replace('_', ' '))
        if key in SIZES or (key == 'drop_path_rate' and not value):
            continue
        if isinstance(value, list) and isinstance(value[0], dict):
            words.append(f'{name} ({"; ".join(map(describe, value))})')
        elif isinstance(value, dict) and value.keys() == {'start', 'end'}:
            # The number changes during the run.
            words.append(f'{name} {value["start"]} to {value["end"]}')
        elif value is True:
            words.append(name)
        else:
            words.append(f'{name} {value}'.strip() if value else f'no {name}')
    return ', '.join(words)


def row(path: Path) -> str:
    """Return the table's row for a config.

    Args:
        path (Path): The config file of a method.

    Returns:
        str: One line of Markdown, with its line break.
    """
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


def table(folder: Path = FOLDER) -> str:
    """Return the Markdown table of all configs in a folder.

    Args:
        folder (Path): Folder with one config file per method. Defaults to
            ``configs/unified``.

    Returns:
        str: The table, one line per method, in the order of the file names.
    """
    # Importing the package lets mmengine find the base configs of mmpretrain with
    # every version of setuptools.
    import mmmaskdistill  # noqa: F401

    head = ['method', 'T', 'N', 'S', 'H', 'L', 'mask', 'source']
    return f'| {" | ".join(head)} |\n{"|---" * len(head)}|\n' + ''.join(
        row(path) for path in sorted(folder.glob('*.py'))
    )


def rewrite(readme: str, new: str) -> str:
    """Replace the table in a README.

    Args:
        readme (str): The README, with the two comments around the table.
        new (str): The new table.

    Returns:
        str: The changed README.
    """
    before, rest = readme.split(BEGIN)
    return before + BEGIN + '\n' + new + '\n' + END + rest.split(END)[1]


def main() -> None:
    """Parse the command line, and write or check the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing, but exit with an error if the table differs from the '
        'configs (default: write the table)',
    )
    args = parser.parse_args()
    path = FOLDER / 'README.md'
    old = path.read_text()
    new = rewrite(old, table())
    if not args.check:
        path.write_text(new)
    elif new != old:
        fail(f'the table in {path} differs from the configs: run python {sys.argv[0]}')


if __name__ == '__main__':
    main()
