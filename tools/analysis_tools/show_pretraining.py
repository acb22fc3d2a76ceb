"""Draw image, mask, the teacher's and the student's features, and their error.

For any pre-training config. Features are coloured by their principal
components, token ids of a codebook by a colour each; the error is the config's
loss at each patch. Without a checkpoint the student is untrained.
"""

import argparse
import mimetypes
import os.path as osp
import sys


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s CONFIG [CHECKPOINT] IMAGE ... [options]',
    )
    parser.add_argument('config', help='pre-training config')
    parser.add_argument(
        'files', nargs='+', help='a checkpoint of that config, if any, and image files'
    )
    parser.add_argument(
        '--out', default='pretraining.png', help='PNG to write (%(default)s)'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of crops and masks (%(default)s)'
    )
    parser.add_argument('--device', default='cpu', help='such as cuda:0 (%(default)s)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.teacher.checkpoint=FILE',
    )
    args = parser.parse_args()
    args.checkpoint = None if is_image(args.files[0]) else args.files[0]
    args.images = args.files[args.checkpoint is not None :]
    for path in (args.config, *args.files):
        if not osp.isfile(path):
            sys.exit(f'error: {path!r} not found')
    if not args.images:
        sys.exit(f'error: no images: {args.checkpoint!r} is taken for a checkpoint')
    return args


def is_image(path):
    kind, _ = mimetypes.guess_type(path, strict=False)
    return (kind or '').startswith('image/')


def main():
    args = arguments()

    # Imported late: the above answers at once.
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.apis.pretraining import init_pretraining, show_pretraining
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        config = load_config(args.config, args.cfg_options)
        model = init_pretraining(config, args.checkpoint, args.device)
        show_pretraining(model, args.images, args.out, args.seed)
    except (ConfigError, CheckpointError) as error:
        sys.exit(f'error: {error}')
    if not model.trained:
        print('no checkpoint was given: the student is untrained')
    print(f'{args.out} written')


if __name__ == '__main__':
    main()
