r"""Open a web page that shows what trained models say about pictures.

Several checkpoints are shown side by side. The page needs the package gradio, in an
environment of its own (see docs/using_a_model.md). For example:

  python tools/demo.py work_dirs/segment/iter_160000.pth
  python tools/demo.py first.pth second.pth --examples photos/ --port 8000

Only this machine can reach the page, unless --host or --share say otherwise. It has no
password, and whoever reaches it can have pictures computed.
"""

import argparse
import os.path as osp

from command_line import fail


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoints', nargs='+', help='checkpoints of runs, or folders with one each'
    )
    parser.add_argument(
        '--names',
        nargs='+',
        metavar='NAME',
        help='names of the checkpoints on the page (default: their paths)',
    )
    parser.add_argument(
        '--config',
        metavar='CONFIG',
        help='config of checkpoints that carry none (default: their own)',
    )
    parser.add_argument(
        '--examples',
        nargs='+',
        metavar='IMAGES',
        help='images to choose from: files, folders, patterns in quotes, or text files '
        "with one path a line (default: some of the first checkpoint's test data, or a "
        'photograph that comes with matplotlib)',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; 0.0.0.0 lets other machines reach the page '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--port', type=int, help='port (default: the first free one from 7860 on)'
    )
    parser.add_argument(
        '--share',
        action='store_true',
        help="show the page at a public address of Gradio's servers, through which all "
        'data then goes (default: off)',
    )
    parser.add_argument(
        '--max-megabytes',
        type=float,
        default=20,
        metavar='N',
        help='largest size of an uploaded file (default: %(default)s)',
    )
    parser.add_argument(
        '--max-megapixels',
        type=float,
        default=16,
        metavar='N',
        help='largest number of pixels of a picture in millions (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        help='such as cpu, cuda or cuda:1 (default: the GPU if there is one)',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='run checkpoints that hold more than weights and plain settings, which '
        'may execute any code of their authors (default: off)',
    )
    args = parser.parse_args()
    if args.names and len(args.names) != len(args.checkpoints):
        fail(
            f'--names has {len(args.names)} names for {len(args.checkpoints)} '
            'checkpoints: expected one for each'
        )
    if min(args.max_megabytes, args.max_megapixels) <= 0:
        fail('--max-megabytes and --max-megapixels: expected more than 0')
    return args


def main() -> None:
    """Load the models and serve the page."""
    args = arguments()

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    import warnings

    from mmmaskdistill.apis import load_model
    from mmmaskdistill.apis.inference.files import list_files
    from mmmaskdistill.apis.web.page import (
        build_page,
        example_pictures,
        import_gradio,
        serve,
    )
    from mmmaskdistill.datasets.image_files import IMAGE_ENDINGS
    from mmmaskdistill.errors import CheckpointError, ConfigError

    # What the models that are built say about losses is not for the user.
    warnings.filterwarnings('ignore', module='mmseg|mmpretrain')
    try:
        import_gradio()
        models = {}
        for name, checkpoint in zip(args.names or args.checkpoints, args.checkpoints):
            source = (args.config, checkpoint) if args.config else (checkpoint,)
            if name in models:
                fail(f'the name {name!r} is given twice: choose others with --names')
            models[name] = load_model(
                *source, device=args.device, trust_checkpoint=args.trust_checkpoint
            )
        if args.examples:
            examples = list(list_files(args.examples, IMAGE_ENDINGS).files)
        else:
            examples = example_pictures(next(iter(models.values())).config)
        examples = [osp.abspath(path) for path in examples]
        page = build_page(models, examples, int(1e6 * args.max_megapixels))
        max_bytes = int(2**20 * args.max_megabytes)
        serve(page, examples, args.host, args.port, args.share, max_bytes)
    except (ConfigError, CheckpointError) as error:
        fail(error)


if __name__ == '__main__':
    main()
