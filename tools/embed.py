r"""Write the features of images to a file.

The model is a checkpoint of this project, which needs no config, or a model of timm.
A run that was stopped goes on when the same command is given again. For example:

  python tools/embed.py work_dirs/pretrain/epoch_300.pth photos/ --out features.npz
  python tools/embed.py work_dirs/segment/iter_160000.pth photos/ a.jpg \
      --out features.npy --what mean patches --layer 7 11
  python tools/embed.py timm:vit_small_patch14_dinov2.lvd142m photos/ \
      --out features.parquet --weights dinov2.safetensors --size 448 448 --pca colors

Without --teacher, pre-training checkpoints embed with their student.
"""

import argparse
import os

from command_line import fail


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint',
        help='checkpoint of a run, a folder with one, or timm:NAME for a model of '
        'timm; with --teacher also a pre-training config',
    )
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGES',
        help='images, folders, patterns in quotes, or text files with one path a line; '
        'an image is named after its path below the folder that holds all of them',
    )
    parser.add_argument(
        '--out',
        required=True,
        metavar='FILE',
        help='file to write: .npz, .parquet, or .npy, which has a list of the names '
        'next to it (FILE.names.txt)',
    )
    parser.add_argument(
        '--what',
        nargs='+',
        choices=['cls', 'mean', 'patches'],
        help='class token, mean of the patches, or all patches (default: cls, or mean '
        'if the model has no class token)',
    )
    parser.add_argument(
        '--layer',
        nargs='+',
        type=int,
        metavar='N',
        help='blocks of a ViT or stages of another network, counted from 0; negative '
        'numbers count from the last one (default: -1, the last one; with --teacher '
        'the features that the student predicts)',
    )
    parser.add_argument(
        '--norm',
        choices=['last', 'all', 'none'],
        default='last',
        help="layers that the model's final norm is applied to: only the last one, as "
        'the model itself does, all or none (default: %(default)s)',
    )
    parser.add_argument(
        '--teacher',
        action='store_true',
        help='embed with the teacher of a pre-training config (default: off)',
    )
    parser.add_argument(
        '--config',
        metavar='CONFIG',
        help='config of a checkpoint that carries none (default: its own)',
    )
    parser.add_argument(
        '--weights',
        metavar='FILE',
        help='weights of a model of timm, in the format of timm, OpenAI or open_clip '
        "(default: those of timm's hub)",
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='size in pixels to which images are resized, in place of the resizing and '
        "cropping of the config's test pipeline or of timm (default: none)",
    )
    parser.add_argument(
        '--pca',
        metavar='DIR',
        help='folder for pictures of the patch features of each image, colored by the '
        'principal components of all images (default: no pictures)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=32,
        metavar='N',
        help='images in a batch (default: %(default)s)',
    )
    parser.add_argument(
        '--num-workers',
        type=int,
        default=2,
        metavar='N',
        help='processes that load images (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        help='such as cpu, cuda or cuda:1 (default: the GPU if there is one)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='compute in mixed precision (default: off)'
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='write numbers of 16 bits, which halves the file (default: 32 bits)',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace FILE if it is there already (default: off, it is an error)',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='run a checkpoint that holds more than weights and plain settings, which '
        'may execute any code of its author (default: off)',
    )
    args = parser.parse_args()
    if args.batch_size < 1 or args.num_workers < 0:
        fail(
            f'--batch-size {args.batch_size} --num-workers {args.num_workers}: '
            'expected at least 1 and at least 0'
        )
    if args.weights and not args.checkpoint.startswith('timm:'):
        fail(
            f'--weights {args.weights!r}: only a model of timm needs them, as '
            f'timm:NAME, not {args.checkpoint!r}'
        )
    if args.config and args.checkpoint.startswith('timm:'):
        fail(f'--config {args.config!r}: {args.checkpoint} has no config')
    return args


def main() -> None:
    """Embed the images, and exit with status 1 if some could not be read."""
    args = arguments()

    # What OpenCV says about each unknown tag of a TIFF file is not for the user.
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    import warnings

    import torch

    from mmmaskdistill.apis.embedding import embed_files, load_embedder
    from mmmaskdistill.apis.feature_files import check_ending
    from mmmaskdistill.errors import CheckpointError, ConfigError

    # What the models that are built say about losses is not for the user.
    warnings.filterwarnings('ignore', module='mmseg|mmpretrain')
    model = (args.config, args.checkpoint) if args.config else (args.checkpoint,)
    if args.weights:
        model = (args.checkpoint, args.weights)
    try:
        check_ending(args.out)
        embedder = load_embedder(
            *model,
            layers=args.layer,
            norm=args.norm,
            teacher=args.teacher,
            size=args.size,
            device=args.device,
            trust_checkpoint=args.trust_checkpoint,
        )
        done = embed_files(
            embedder,
            args.images,
            args.out,
            args.what,
            pca=args.pca,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            amp=args.amp,
            dtype='float16' if args.half else 'float32',
            overwrite=args.overwrite,
        )
    except (ConfigError, CheckpointError) as error:
        fail(error)
    except torch.OutOfMemoryError as error:
        fail(f'{error}: set a smaller --batch-size (now {args.batch_size}), or --amp')
    except OSError as error:
        fail(f'{error}. When this is solved, give the same command again to go on')
    except KeyboardInterrupt:
        fail(f'stopped: give the same command again to go on with {args.out!r}')
    number = len(done.names) + len(done.skipped) - done.resumed
    rate = number / max(done.seconds, 1e-9)
    print(f'{number} images in {done.seconds:.1f} s ({rate:.1f} images/s)')
    print(f'{len(done.names)} rows in {", ".join(done.files)}')
    if done.pictures:
        print(f'{len(done.pictures)} pictures in {args.pca}')
    if done.skipped:
        lines = [f'skipped {name}: {reason}' for name, reason in done.skipped.items()]
        fail(Skipped(lines))


class Skipped(Exception):
    """Images that have no row, with a message for each."""

    def __init__(self, messages: list[str]):
        self.messages = messages
        super().__init__()


if __name__ == '__main__':
    main()
