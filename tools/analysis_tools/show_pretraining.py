"""Draw image, mask, the teacher's and the student's features, and their error."""
import argparse


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

    from mmmaskdistill.apis.pretraining import (init_pretraining,
                                                show_pretraining)
    model = init_pretraining(args.config, args.checkpoint, args.device)
    show_pretraining(model, args.images, args.out, args.seed)
    print(f'{args.out} written')


if __name__ == '__main__':
    main()
