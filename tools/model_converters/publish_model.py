r"""Reduce a run's checkpoint to what others need, and add a hash to its name.

The written file keeps the weights (the averaged weights if the run used EMA), the
config that trained them, and the data set's meta information, such as the names and
the colors of its classes. It does not contain the optimizer and the training history.
The config contains the paths of the training data. Adapters of LoRA (mmpretrain's
LoRAModel) are merged into the weights that they adapt. The file's name ends with the
first eight hexadecimal digits of its SHA-256 hash. Examples:

  python tools/model_converters/publish_model.py \
      work_dirs/x/epoch_300.pth student.pth --backbone
  python tools/model_converters/publish_model.py \
      work_dirs/y/iter_160000.pth upernet.safetensors
"""

import argparse
import sys
from pathlib import Path

# command_line.py is in tools/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from command_line import fail


def main() -> None:
    """Parse the command line and write the published checkpoint."""
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
        help='NAME.pth or NAME.safetensors; the file is written as NAME-HASH.pth or '
        'NAME-HASH.safetensors',
    )
    parser.add_argument(
        '--backbone',
        action='store_true',
        help='keep only the weights of the backbone, without the prefix backbone. '
        'in their keys (default: keep the whole model)',
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
    from mmmaskdistill.apis.inference.adapters import merge_in
    from mmmaskdistill.errors import CheckpointError, ConfigError
    from mmmaskdistill.models.checkpoints import read_weights
    from mmmaskdistill.models.checkpoints.export import check_ending, publish

    try:
        check_ending(args.out)
        weights = read_weights(args.checkpoint, trust_checkpoint=args.trust_checkpoint)
        weights = merge_in(weights, args.checkpoint, args.trust_checkpoint)
        path, count = publish(weights, args.checkpoint, args.out, args.backbone)
    except (CheckpointError, ConfigError) as error:
        fail(error)
    except OSError as error:
        fail(f'cannot write to {args.out!r}: {error.strerror}')
    print(f'{count} tensors written to {path}')


if __name__ == '__main__':
    main()
