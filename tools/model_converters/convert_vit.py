"""Write the ViT of a checkpoint as timm's or transformers' BEiT has it.

Any checkpoint will do that a backbone's init_cfg takes: of a run of ours, or
of another project.

  convert_vit.py work_dirs/x/epoch_300.pth student.safetensors --to timm
  convert_vit.py work_dirs/x/epoch_300.pth student/ --to transformers
"""

import argparse
import json
import os
import sys


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='file to read')
    parser.add_argument(
        'out',
        help='for timm a .pth or .safetensors file to write, for transformers a folder',
    )
    parser.add_argument('--to', required=True, choices=['timm', 'transformers'])
    parser.add_argument(
        '--prefix', help="of the ViT's keys; needed if there are several ViTs"
    )
    parser.add_argument(
        '--num-heads',
        type=int,
        help='attention heads; needed if there is no relative position table',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read a pickle that holds more than tensors: whoever made the '
        'file can then run any code here',
    )
    args = parser.parse_args()

    # Imported late: --help answers at once.
    from mmmaskdistill.errors import CheckpointError
    from mmmaskdistill.models import export
    from mmmaskdistill.models.weights import write_weights

    try:
        vit = export.read_vit(
            args.checkpoint, args.prefix, args.num_heads, args.trust_checkpoint
        )
    except CheckpointError as error:
        sys.exit(f'error: {error}')
    if args.to == 'timm':
        state, name, options = export.to_timm(vit)
        write_weights(state, args.out)
        options = ''.join(f', {k}={v!r}' for k, v in options.items())
        print(
            f'{len(state)} tensors written. To open them:\n'
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
            f'{len(state)} tensors written. To open them:\n  transformers.'
            f'{config["architectures"][0]}.from_pretrained({args.out!r})'
        )


if __name__ == '__main__':
    main()
