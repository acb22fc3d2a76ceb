"""Evaluate a checkpoint of a classification or segmentation config.

For example:

  python tools/test.py CONFIG CHECKPOINT
  python tools/test.py CONFIG CHECKPOINT --tta --out metrics.json
  python tools/test.py CONFIG CHECKPOINT --confusion DIR --worst 10 --show-dir DIR

tools/dist_test.sh starts this tool on several GPUs.
"""

import argparse
import os
import os.path as osp
from tempfile import TemporaryFile

from command_line import (
    fail,
    is_first_process,
    leave_process_group,
    new_parser,
    parse_args,
)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, starter='tools/dist_test.sh')
    parser.add_argument(
        'checkpoint',
        help='path or URL of the checkpoint, or the work dir of a run, which stands '
        'for its latest checkpoint',
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='write results to PATH: metrics, also those of each class, to a .json '
        'file, predictions without logits to a .pkl file, or the predicted label maps '
        'of a segmentation config to a folder; only metrics need labels (default: '
        'nothing is written)',
    )
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what to write to --out, metrics or predictions (default: the '
        'extension of --out decides)',
    )
    parser.add_argument(
        '--confusion',
        metavar='PATH',
        help='write the confusion matrix: a picture to a .png file, the counts to a '
        '.csv file, or both to a folder (default: it is not written)',
    )
    parser.add_argument(
        '--worst',
        type=int,
        metavar='N',
        help='find the N worst images: those with the lowest mean IoU over the classes '
        'of their label (segmentation), or the wrong predictions with the highest '
        'score (classification); --show-dir gets a picture of them, worst.png, and a '
        '.json file of --out a list (default: none)',
    )
    parser.add_argument(
        '--show-dir',
        metavar='FOLDER',
        help='draw predictions and write the pictures to FOLDER; with --worst, only '
        'one picture of the worst images (default: no pictures are written)',
    )
    parser.add_argument(
        '--show',
        action='store_true',
        help='show predictions in a window (default: off)',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        metavar='SECONDS',
        help='seconds for which --show keeps each window open (default: %(default)s)',
    )
    parser.add_argument(
        '--interval',
        type=int,
        default=1,
        metavar='N',
        help='with --show or --show-dir, draw one of every N samples (classification) '
        'or batches (segmentation) (default: %(default)s)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average predictions over the config's test-time augmentations; a "
        'classification config that defines none averages over the image and its '
        'horizontal flip (default: off)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='test in mixed precision (default: off)'
    )
    return parse_args(parser)


def out_item(args: argparse.Namespace) -> str | None:
    """Decide what is written to ``--out``; exit if the options contradict.

    Args:
        args (argparse.Namespace): The command line, of which ``out`` and
            ``out_item`` are used.

    Returns:
        str | None: ``'metrics'``, ``'pred'`` (predictions) or ``'label_maps'``;
        None if nothing is written.
    """
    if args.out is None:
        if args.out_item:
            fail('--out-item needs a file to write to: give --out too')
        return None
    pickle = args.out.endswith(('.pkl', '.pickle'))
    text = args.out.endswith(('.json', '.yml', '.yaml'))
    if args.out_item == 'pred' and text:
        fail(f'--out {args.out!r}: predictions are tensors and go to a .pkl file')
    if args.out_item == 'metrics' and not (pickle or text):
        fail(f'--out {args.out!r}: metrics go to a .json, .yml or .pkl file')
    if args.out_item == 'metrics' or text:
        return 'metrics'
    return 'pred' if pickle else 'label_maps'


def check_worst(args: argparse.Namespace, item: str | None) -> None:
    """Exit if the worst images would be written nowhere, or if there are none.

    Args:
        args (argparse.Namespace): The command line.
        item (str | None): What is written to ``--out``, see :func:`out_item`.
    """
    if args.worst is None:
        return
    if args.worst < 1:
        fail(f'--worst {args.worst}: expected a positive number of images')
    if args.show_dir is None and item != 'metrics':
        fail(
            '--worst needs a place to write to: give --show-dir FOLDER for a picture, '
            '--out FILE.json for a list, or both'
        )


def make_folders(args: argparse.Namespace, item: str | None) -> None:
    """Make the folders that are written to; exit if that is impossible.

    A test may take long, and such a mistake should not show up at its end.

    Args:
        args (argparse.Namespace): The command line.
        item (str | None): What is written to ``--out``, see :func:`out_item`.
    """
    folders = [args.show_dir, args.out if item == 'label_maps' else None]
    files = [args.out if item in ('metrics', 'pred') else None]
    if args.confusion:
        a_file = args.confusion.lower().endswith(('.png', '.csv'))
        (files if a_file else folders).append(args.confusion)
    folders += [osp.dirname(osp.abspath(path)) for path in files if path]
    for folder in filter(None, folders):
        try:
            os.makedirs(folder, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            fail(f'cannot write to {folder!r}: {error.strerror}')


def main() -> None:
    """Check the command line and the config, then evaluate."""
    args = arguments()
    item = out_item(args)
    check_worst(args, item)
    if '://' not in args.checkpoint and not osp.exists(args.checkpoint):
        fail(
            f'checkpoint not found: {args.checkpoint!r} (from '
            f'{os.getcwd()!r}). Training writes checkpoints to its work directory'
        )

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    from mmengine.dist import is_main_process

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import checks, configs, testing
    from mmmaskdistill.errors import CheckpointError, ConfigError

    required = bool(args.confusion or args.worst)
    pictures = args.show or (args.show_dir and not args.worst)
    try:
        if args.confusion:
            testing.check_confusion_path(args.confusion)
        cfg = configs.load_config(
            args.config, args.cfg_options, args.work_dir, args.launcher
        )
        configs.set_test(cfg, args.checkpoint, amp=args.amp)
        writes = item in ('pred', 'label_maps') or bool(pictures)
        metrics_wanted = required or item == 'metrics'
        unlabeled = testing.use_without_labels(cfg, writes and not metrics_wanted)
        if unlabeled and is_first_process():
            print('the images have no labels: no metric is computed', flush=True)
        if args.tta:
            configs.enable_tta(cfg)
        if pictures:
            show_dir = None if args.worst else args.show_dir
            configs.enable_pictures(
                cfg, show_dir, args.show, args.wait_time, args.interval
            )
        findings = checks.check(cfg, ['test_dataloader'])
        if findings.warnings and is_first_process():
            print(findings.framed(), flush=True)
        findings.raise_errors()
        make_folders(args, item)
        runner = configs.build_runner(cfg)
        report = testing.collect(
            runner,
            testing.task_of(cfg),
            predictions=args.out if item == 'pred' else None,
            label_maps=args.out if item == 'label_maps' else None,
            report=metrics_wanted,
            worst=args.worst or 0,
            required=required,
        )
        metrics = runner.test()
        if is_main_process():
            if item == 'metrics':
                testing.write_metrics(metrics, report, args.out, bool(args.worst))
            if args.confusion:
                for path in testing.write_confusion(report, args.confusion):
                    print(f'confusion matrix: {path}')
            if args.worst and args.show_dir:
                dataset = runner.test_dataloader.dataset
                path = testing.write_worst(report, dataset, args.show_dir)
                print(f'worst images: {path or "none"}')
    except (ConfigError, CheckpointError) as error:
        fail(error)
    except OSError as error:
        if error.errno is None and error.filename is None:
            raise  # The error is not from the operating system but from a library.
        fail(f'the test stopped: {error}')


if __name__ == '__main__':
    main()
    leave_process_group()
