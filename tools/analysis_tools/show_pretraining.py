r"""Draw what a pre-training model sees and predicts.

For each image, the tool draws the image, the mask, the features of the teacher and
of the student, and the error of the student's prediction. Features are colored by
their principal components; if the teacher assigns discrete tokens to the patches,
each token has its own color. The error of a patch is the loss of the config. The
images are cropped and masked as in training. For example:

  python tools/analysis_tools/show_pretraining.py configs/quickstart/pretrain.py \
      work_dirs/quickstart/pretrain/epoch_10.pth image.jpg --out pretraining.png

Without a checkpoint, the student is untrained.
"""

import argparse
import mimetypes
import os.path as osp
import sys

# command_line.py is in tools/.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))
from command_line import check_options, fail


def arguments() -> argparse.Namespace:
    """Parse the command line, and exit if a file does not exist.

    Returns:
        argparse.Namespace: The values of the options, with ``files`` divided into
        ``checkpoint`` (None if there is none) and ``images``.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s CONFIG [CHECKPOINT] IMAGE ... [options]',
    )
    parser.add_argument('config', help='path of a pre-training config')
    parser.add_argument(
        'files',
        nargs='+',
        help='one or more image files; the first file may be a checkpoint of that '
        'config instead',
    )
    parser.add_argument(
        '--out',
        default='pretraining.png',
        metavar='FILE',
        help='PNG file to write (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='N',
        help='seed for the random crops and masks (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        default='cpu',
        help='device for the models, for example cuda:0 (default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='settings that override those of the config, for example '
        'model.teacher.checkpoint=FILE (default: no changes)',
    )
    args = parser.parse_args()
    check_options(args.cfg_options)
    args.checkpoint = None if is_image(args.files[0]) else args.files[0]
    args.images = args.files[args.checkpoint is not None :]
    for path in (args.config, *args.files):
        found = osp.exists if path == args.checkpoint else osp.isfile
        if not found(path):
            fail(f'{path!r} not found')
    if not args.images:
        fail(
            f'no images given: {args.checkpoint!r} is not an image and is '
            'used as the checkpoint. Add one or more image files'
        )
    return args


def is_image(path: str) -> bool:
    """Return whether the file name has the extension of an image."""
    kind, _ = mimetypes.guess_type(path, strict=False)
    return (kind or '').startswith('image/')


def main() -> None:
    """Check the command line and draw the picture."""
    args = arguments()

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.apis.pretraining import init_pretraining, show_pretraining
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        config = load_config(args.config, args.cfg_options)
        model = init_pretraining(config, args.checkpoint, args.device)
        show_pretraining(model, args.images, args.out, args.seed)
    except (ConfigError, CheckpointError) as error:
        fail(error)
    if not model.trained:
        print('no checkpoint was given, so the student is untrained')
    print(f'{args.out} written')


if __name__ == '__main__':
    main()
