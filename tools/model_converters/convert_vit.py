r"""Convert the ViT of a checkpoint to the BEiT format of timm or transformers.

The tool reads every checkpoint that the init_cfg of a MaskDistillViT backbone
reads: those of this project's runs and those of other projects. It prints the
Python call that opens the converted model. Examples:

  python tools/model_converters/convert_vit.py \
      work_dirs/x/epoch_300.pth student.safetensors --to timm
  python tools/model_converters/convert_vit.py \
      work_dirs/x/epoch_300.pth student/ --to transformers
"""

import argparse
import json
import os
import sys
from pathlib import Path

# command_line.py is in tools/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from command_line import fail


def main() -> None:
    """Parse the command line and convert the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint',
        help='path or URL of the checkpoint to read, or the work dir of a run, which '
        'stands for its latest checkpoint',
    )
    parser.add_argument(
        'out',
        help='where to write: a .pth or .safetensors file for timm, a folder for '
        'transformers',
    )
    parser.add_argument(
        '--to',
        required=True,
        choices=['timm', 'transformers'],
        help='library that will read the converted model (required)',
    )
    parser.add_argument(
        '--prefix',
        help="prefix of the ViT's keys in the checkpoint, such as backbone.; needed "
        'if the checkpoint holds several ViTs (default: found from the keys)',
    )
    parser.add_argument(
        '--num-heads',
        type=int,
        metavar='N',
        help='number of attention heads; needed if the ViT has no relative position '
        'table (default: read from that table)',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read a pickle that holds more than tensors. This lets the file '
        'run any code on this machine: use the option only for files from '
        'people you trust (default: off, such files are refused)',
    )
    args = parser.parse_args()

    # These imports are slow and come last, so that --help answers at once.
    from mmmaskdistill.errors import CheckpointError
    from mmmaskdistill.models.checkpoints import export, write_weights

    try:
        vit = export.read_vit(
            args.checkpoint, args.prefix, args.num_heads, args.trust_checkpoint
        )
    except CheckpointError as error:
        fail(error)
    if args.to == 'timm':
        state, name, options = export.to_timm(vit)
        write_weights(state, args.out)
        options = ''.join(f', {k}={v!r}' for k, v in options.items())
        print(
            f'{len(state)} tensors written. To open the model:\n'
            f'  timm.create_model({name!r}, checkpoint_path={args.out!r}'
            f'{options})'
        )
    else:
        state, config = export.to_transformers(vit)
        os.makedirs(args.out, exist_ok=True)
        write_weights(state, os.path.join(args.out, 'model.safetensors'))
        with open(os.path.join(args.out, 'config.json'), 'w') as file:
            json.dump(config, file, indent=2)
        print(
            f'{len(state)} tensors written. To open the model:\n  transformers.'
            f'{config["architectures"][0]}.from_pretrained({args.out!r})'
        )


if __name__ == '__main__':
    main()
