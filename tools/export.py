r"""Export a trained model to a file that runs without this code.

The format follows from the ending of OUT: .onnx, .pt2 (torch.export), .torchscript,
.ts or .pt (a TorchScript trace). The file says itself how images are prepared and what
the classes are, and is only kept if it computes what the model computes. With --format
huggingface, OUT becomes a folder that can be published. Examples:

  python tools/export.py work_dirs/x/iter_160000.pth model.onnx
  python tools/export.py work_dirs/x/iter_160000.pth model.onnx --dynamic --half
  python tools/export.py work_dirs/x/iter_160000.pth model.pt2 --size 512 768 \
      --output logits
  python tools/export.py work_dirs/x/iter_160000.pth folder --format huggingface \
      --metrics metrics.json --license apache-2.0
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
        'checkpoint',
        help='checkpoint, work dir of a run, or folder of --format huggingface',
    )
    parser.add_argument(
        'out', help='file or, with --format huggingface, folder to write'
    )
    parser.add_argument(
        '--config',
        help='config that trained the checkpoint (default: the one that the checkpoint '
        'contains)',
    )
    parser.add_argument(
        '--format',
        choices=['onnx', 'torchscript', 'pt2', 'huggingface'],
        help='format (default: the ending of OUT tells it)',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the images in pixels, multiples of the patch size '
        '(default: the size that the model is tested or trained with)',
    )
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='take images of any size in whole patches; not for TorchScript (default: '
        'of one size). The number of images in a batch is free in any case',
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='weights and computations of 16 bits; images and results keep 32 bits '
        '(default: 32 bits)',
    )
    parser.add_argument(
        '--output',
        choices=['labels', 'logits', 'features'],
        help='what the file computes: the class of each pixel, logits, or the features '
        'of the backbone (default: labels of a segmentor, logits of a classifier, '
        'features of a pre-trained student)',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=[],
        metavar='IMAGES',
        help='pictures, folders, patterns in quotes, or text files with one path a '
        'line, on the first of which the file is checked (default: images that the '
        'config tests with if they are there, or else a photograph)',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace OUT if it exists (default: off, OUT must not exist)',
    )
    folder = parser.add_argument_group('options of --format huggingface')
    folder.add_argument(
        '--metrics',
        metavar='JSON',
        help='metrics for the model card, as tools/test.py --out writes them (default: '
        'those of the last validation in the work dir, if there are any)',
    )
    folder.add_argument(
        '--license',
        help='licence of the weights, such as apache-2.0 (default: the model card says '
        'that it is not stated)',
    )
    folder.add_argument(
        '--push',
        metavar='REPO',
        help='upload the folder to this repository of the Hugging Face Hub, such as '
        'USER/NAME; needs a token (default: nothing is uploaded)',
    )
    folder.add_argument(
        '--private',
        action='store_true',
        help='make the repository of --push private if it is new (default: public)',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read a checkpoint that holds more than tensors and plain data. This '
        'lets the file run any code on this machine: use the option only for files '
        'from people you trust (default: off, such files are refused)',
    )
    return parser.parse_args()


def main() -> None:
    """Check the command line, load the model, and export it."""
    args = arguments()
    for path, kind in ((args.checkpoint, 'checkpoint'), (args.config, 'config')):
        if path and '://' not in path and not osp.exists(path):
            fail(f'{kind} not found: {path!r}')
    if args.format != 'huggingface':
        for name in ('metrics', 'license', 'push', 'private'):
            if getattr(args, name):
                fail(f'--{name} belongs to --format huggingface')

    # These imports are slow, and mistakes above are reported at once.
    from mmmaskdistill.apis import exporting, load_model
    from mmmaskdistill.errors import CheckpointError, ConfigError

    request = exporting.Request(
        args.out,
        args.format,
        tuple(args.size) if args.size else None,
        args.dynamic,
        args.half,
        args.output,
        tuple(args.images),
        args.overwrite,
    )
    try:
        form = exporting.check_request(request)
        if form == 'huggingface':
            metrics = exporting.read_metrics(args.metrics) if args.metrics else None
            if args.push:
                exporting.check_push(args.push)
        given = (args.config, args.checkpoint) if args.config else (args.checkpoint,)
        model = load_model(*given, device='cpu', trust_checkpoint=args.trust_checkpoint)
        if form == 'huggingface':
            lines = exporting.write_folder(
                model, args.out, args.checkpoint, metrics, args.license
            )
            print('\n'.join(lines))
            if args.push:
                print(exporting.push_folder(args.out, args.push, args.private))
        else:
            exported = exporting.export_model(model, request, args.checkpoint)
            print(f'{exported.path}: {exported.summary}')
    except (ConfigError, CheckpointError) as error:
        fail(error)
    except OSError as error:
        fail(f'cannot write to {args.out!r}: {error}')


if __name__ == '__main__':
    main()
