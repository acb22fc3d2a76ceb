"""Evaluate a checkpoint of any config: classification or segmentation."""

import os
import os.path as osp

from command_line import fail, new_parser, parse_args


def arguments():
    parser = new_parser(__doc__, starter='tools/dist_test.sh')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='where results go: predictions to a .pkl file, metrics to a '
        '.json file, label maps (segmentation) to a folder',
    )
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what --out is, where its ending does not say it',
    )
    parser.add_argument('--show-dir', help='draw predictions into this folder')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that a window stays'
    )
    parser.add_argument(
        '--interval',
        type=int,
        default=1,
        help='draw every so many samples (segmentation: batches)',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--amp', action='store_true', help='test in mixed precision')
    return parse_args(parser)


def out_item(args):
    """What is written to ``--out``: metrics, pred, label_maps or None."""
    if args.out is None:
        if args.out_item:
            fail('--out-item says what --out is: give --out too')
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


def main():
    args = arguments()
    item = out_item(args)
    if '://' not in args.checkpoint and not osp.isfile(args.checkpoint):
        fail(
            f'checkpoint not found: {args.checkpoint!r} (from '
            f'{os.getcwd()!r}). Training writes them to its work dir'
        )

    # Imported late: the above answers at once.
    from mmengine import dump
    from mmengine.dist import is_main_process
    from mmengine.evaluator import DumpResults

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import configs, preflight
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
        preflight.check_data(cfg, ['test_dataloader'])
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
