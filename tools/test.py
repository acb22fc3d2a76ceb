"""Evaluate a checkpoint of a classification or segmentation config.

For example:

  python tools/test.py CONFIG CHECKPOINT
  python tools/test.py CONFIG CHECKPOINT --tta --out metrics.json

tools/dist_test.sh starts this tool on several GPUs.
"""

import argparse
import os
import os.path as osp

from command_line import fail, is_first_process, new_parser, parse_args


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, starter='tools/dist_test.sh')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='write results to PATH: predictions to a .pkl file, metrics to a .json '
        'file, or the predicted label maps of a segmentation config to a folder '
        '(default: nothing is written)',
    )
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what to write to --out, metrics or predictions (default: the '
        'extension of --out decides)',
    )
    parser.add_argument(
        '--show-dir',
        metavar='FOLDER',
        help='draw predictions and write the pictures to FOLDER (default: no '
        'pictures are written)',
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


def main() -> None:
    """Check the command line and the config, then evaluate."""
    args = arguments()
    item = out_item(args)
    if '://' not in args.checkpoint and not osp.isfile(args.checkpoint):
        fail(
            f'checkpoint not found: {args.checkpoint!r} (from '
            f'{os.getcwd()!r}). Training writes checkpoints to its work directory'
        )

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    from mmengine import dump
    from mmengine.dist import is_main_process
    from mmengine.evaluator import DumpResults

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import checks, configs
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        cfg = configs.load_config(
            args.config, args.cfg_options, args.work_dir, args.launcher
        )
        configs.set_test(cfg, args.checkpoint, amp=args.amp)
        if args.tta:
            configs.enable_tta(cfg)
        if args.show or args.show_dir:
            configs.enable_pictures(
                cfg, args.show_dir, args.show, args.wait_time, args.interval
            )
        if item == 'label_maps':
            configs.save_label_maps(cfg, args.out)
        findings = checks.check(cfg, ['test_dataloader'])
        if findings.warnings and is_first_process():
            print(findings.framed(), flush=True)
        findings.raise_errors()
        runner = configs.build_runner(cfg)
        if item == 'pred':
            runner.test_evaluator.metrics.append(DumpResults(args.out))
        metrics = runner.test()
        if item == 'metrics' and is_main_process():
            dump({key: float(value) for key, value in metrics.items()}, args.out)
    except (ConfigError, CheckpointError) as error:
        fail(error)


if __name__ == '__main__':
    main()
