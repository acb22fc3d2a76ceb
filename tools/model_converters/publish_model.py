"""Strip a checkpoint of a run to what others need, and name it by its hash.

What stays are the weights (of an EMA, where the run had one) and what the
data's classes are; the optimizer, the history and the configuration go.

  publish_model.py work_dirs/x/epoch_300.pth student.pth --backbone
  publish_model.py work_dirs/y/iter_160000.pth upernet.safetensors
"""

import argparse
import hashlib
import os
import sys


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='file to read')
    parser.add_argument(
        'out',
        help='NAME.pth or NAME.safetensors, written as NAME-HASH.pth; the '
        'latter holds weights alone',
    )
    parser.add_argument(
        '--backbone', action='store_true', help='of the whole model keep the backbone'
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
    from mmmaskdistill.models.weights import (
        named_tensors,
        read_checkpoint,
        write_weights,
    )

    try:
        content = read_checkpoint(args.checkpoint, args.trust_checkpoint)
    except CheckpointError as error:
        sys.exit(f'error: {error}')
    state = named_tensors(content)
    if args.backbone:
        state = {
            key.removeprefix('backbone.'): tensor
            for key, tensor in state.items()
            if key.startswith('backbone.')
        }
    if not state:
        sys.exit(
            f'error: {args.checkpoint!r} has no weights'
            + ' of a backbone' * args.backbone
        )
    data = content.get('meta', {}).get('dataset_meta')
    name, suffix = os.path.splitext(args.out)
    draft = f'{name}-draft{suffix}'
    write_weights(state, draft, dict(dataset_meta=data) if data else None)
    with open(draft, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:8]
    os.replace(draft, f'{name}-{digest}{suffix}')
    print(f'{len(state)} tensors written to {name}-{digest}{suffix}')


if __name__ == '__main__':
    main()
