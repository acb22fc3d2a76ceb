r"""Predict images and videos with what was trained.

A segmentor writes the class of each pixel, a classifier that of each image. For
example:

  python tools/predict.py work_dirs/streets/iter_8000.pth photos --out predictions
  python tools/predict.py upernet-1a2b3c4d.safetensors 'data/**/*_left.png' drive.mp4 \
      --out predictions --save overlay --batch-size 4

INPUTS are images, videos, folders, patterns in quotes, or text files with one path a
line. For each image, the tool writes

  OUT/labels/NAME.png         the number of each pixel's class, with the classes' colors
  OUT/overlay/NAME.jpg        the colors over the image (of a video, NAME.mp4)
  OUT/probabilities/NAME.npy  [classes, height, width], float16
  OUT/classes.json            names and colors of the classes, for all images

or, for a classifier, OUT/predictions.csv and OUT/predictions.json. NAME is the path
below the folder that was given. docs/using_a_model.md has more about each option.

With --tile, pictures of any size are segmented at their own resolution, in tiles and
within a fixed memory. This writes label maps alone; that of a TIFF is a TIFF with the
same georeference, OUT/labels/NAME.tif.
"""

import argparse
import os
import os.path as osp
import sys
import time

from command_line import fail

SAVE = ('labels', 'overlay', 'probabilities')


def scale(text: str) -> float:
    """Read the SCALE of --tile."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no factor, such as 0.5 (put --tile without a factor behind '
            'the inputs, or before another option)'
        )
    return value


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint',
        help='checkpoint (.pth or .safetensors), the work dir of a run, or a folder in '
        'the layout of Hugging Face',
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUTS',
        help='images, videos, folders, patterns in quotes, or text files with one path '
        'a line',
    )
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder to write to'
    )
    parser.add_argument(
        '--config',
        metavar='FILE',
        help='config that trained the checkpoint (default: the one in the checkpoint)',
    )
    parser.add_argument(
        '--save',
        nargs='+',
        choices=SAVE,
        metavar='WHAT',
        help='what to write, of labels, overlay and probabilities; a classifier always '
        'writes its tables, with the scores of all classes if probabilities are given '
        '(default: labels overlay; with --tile: labels)',
    )
    parser.add_argument(
        '--tile',
        nargs='?',
        type=scale,
        const=1.0,
        metavar='SCALE',
        help='segment large pictures in overlapping tiles of the size of the training '
        'crops; at their own resolution, or resized by the factor SCALE, such as 0.5 '
        '(default: the pictures are resized as the config says)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average predictions over the config's test-time augmentations; a "
        'classification config that defines none averages over the image and its '
        'horizontal flip (default: off)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help='number of images that are computed together, or of tiles, which without '
        'the option are as many as fit into the memory of a GPU (default: 1)',
    )
    parser.add_argument(
        '--device',
        help='such as cpu, cuda or cuda:1 (default: the GPU if there is one)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (default: off)'
    )
    parser.add_argument(
        '--opacity',
        type=float,
        default=0.5,
        metavar='SHARE',
        help='opacity of the colors in overlays, 0 to 1 (default: %(default)s)',
    )
    parser.add_argument(
        '--existing',
        choices=['error', 'skip', 'overwrite'],
        default='error',
        help='what to do if a file to write is already there: stop before anything is '
        'computed, skip the image, or overwrite (default: %(default)s)',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help="run the checkpoint's config as a program, and read a pickle that holds "
        'more than tensors. This lets the file run any code on this machine: use the '
        'option only for files from people you trust (default: off, such files are '
        'refused)',
    )
    args = parser.parse_args()
    if args.batch_size is not None and args.batch_size < 1:
        fail(f'--batch-size {args.batch_size}: expected at least 1')
    if args.tile is not None:
        others = sorted({*(args.save or ())} - {'labels'})
        if others:
            fail(f'--save {" ".join(others)}: --tile writes labels alone')
        if args.tta:
            fail('--tta: expected without --tile, which has no test-time augmentation')
    if args.save is None:
        args.save = ['labels'] if args.tile is not None else ['labels', 'overlay']
    if not 0 <= args.opacity <= 1:
        fail(f'--opacity {args.opacity}: expected 0 to 1')
    for path in filter(None, (args.checkpoint, args.config)):
        if '://' not in path and not osp.exists(path):
            fail(f'no such file: {path!r} (from {osp.abspath(osp.curdir)!r})')
    if osp.exists(args.out) and not osp.isdir(args.out):
        fail(f'--out {args.out!r} is a file: expected a folder')
    return args


class Line:
    """A line that shows the progress while the tool runs."""

    def __init__(self, total: str):
        self.total, self.start = total, time.perf_counter()
        # A terminal's line is written anew; a log gets a line every half minute.
        self.anew = sys.stderr.isatty()
        self.interval = 0.2 if self.anew else 30
        self.shown = self.start

    def __call__(self, images: float) -> None:
        """Show the number of images so far, unless that was done a moment ago.

        Args:
            images (float): The number; a fraction for an image of which some tiles are
                done.
        """
        now = time.perf_counter()
        if now - self.shown < self.interval:
            return
        self.shown = now
        rate = images / (now - self.start)
        text = f'{round(images, 3)} images of {self.total}, {rate:.3g} images/s'
        end = '' if self.anew else '\n'
        start = '\r\033[K' if self.anew else ''
        print(start + text, end=end, file=sys.stderr, flush=True)

    def report(self, message: str) -> None:
        """Show a message in a line of its own."""
        start = '\r\033[K' if self.anew else ''
        print(f'{start}skipped: {message}', file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self.anew:
            print('\r\033[K', end='', file=sys.stderr, flush=True)


def main() -> None:
    """Parse the command line and predict."""
    args = arguments()

    # What OpenCV says about each unknown tag of a TIFF file is not for the user.
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    import warnings

    import torch

    from mmmaskdistill.apis import load_model
    from mmmaskdistill.apis.inference.files import find_files
    from mmmaskdistill.apis.inference.predicting import Options, predict_files
    from mmmaskdistill.errors import CheckpointError, ConfigError, first_few

    # What the models that are built say about losses is not for the user.
    warnings.filterwarnings('ignore', module='mmseg|mmpretrain')
    try:
        found = find_files(args.inputs, args.out)
        if found.left_out:
            counts = ', '.join(f'{n} {name}' for name, n in found.left_out.items())
            print(f'left out: {counts}')
        model = load_model(
            *filter(None, (args.config, args.checkpoint)),
            device=args.device,
            trust_checkpoint=args.trust_checkpoint,
        )
        options = Options(
            args.out,
            args.save,
            args.batch_size or 1,
            args.tta,
            args.amp,
            args.opacity,
            args.existing,
            args.tile,
            args.batch_size,
        )
        line = Line(f'{len(found.files)} files')
        try:
            done = predict_files(model, found.files, options, line, line.report)
        finally:
            line.clear()
    except (ConfigError, CheckpointError) as error:
        fail(error)
    except torch.OutOfMemoryError as error:
        batch = args.batch_size or 1
        fail(f'{error}: set a smaller --batch-size (now {batch}), or --amp')
    except KeyboardInterrupt:
        fail('stopped; --existing skip goes on with the files that are missing')
    except OSError as error:
        fail(f'cannot write to {args.out!r}: {error}')
    if done.skipped:
        print(f'{done.skipped} files were predicted before')
    rate = done.images / max(done.seconds, 1e-9)
    print(
        f'{done.images} images in {done.seconds:.1f} s, {rate:.3g} images/s: {args.out}'
    )
    if done.broken:
        fail(
            f'{len(done.broken)} of {len(found.files)} files were skipped: '
            f'{first_few(done.broken)}'
        )


if __name__ == '__main__':
    main()
