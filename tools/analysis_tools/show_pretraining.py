"""Draw image, mask, the teacher's and the student's features, and their error."""
import argparse
import os.path as osp
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='pre-training config')
    parser.add_argument('checkpoint', help='checkpoint of that config')
    parser.add_argument('images', nargs='+', help='image files')
    parser.add_argument(
        '--out', default='pretraining.png', help='PNG to write (%(default)s)')
    parser.add_argument(
        '--seed', type=int, default=0, help='of crops and masks (%(default)s)')
    parser.add_argument(
        '--device', default='cpu', help='such as cuda:0 (%(default)s)')
    args = parser.parse_args()
    for path in (args.config, args.checkpoint, *args.images):
        if not osp.isfile(path):
            sys.exit(f'error: {path!r} not found')

    # Imported late: the above answers at once.
    from mmmaskdistill.apis.pretraining import (init_pretraining,
                                                show_pretraining)
    from mmmaskdistill.errors import CheckpointError, ConfigError
    try:
        model = init_pretraining(args.config, args.checkpoint, args.device)
    except (ConfigError, CheckpointError) as error:
        sys.exit(f'error: {error}')
    show_pretraining(model, args.images, args.out, args.seed)
    print(f'{args.out} written')


if __name__ == '__main__':
    main()
