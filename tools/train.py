"""Train any config: masked distillation, classification or segmentation."""
import argparse
import os
import os.path as osp
import sys


def fail(message):
    """End with one line, whatever the number of processes."""
    sys.exit(f'error: {message}' if os.environ.get('RANK', '0') == '0' else 1)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir',
        help='where logs and checkpoints go (default: work_dirs/<config>)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a value, from the latest '
        'one in the work dir, if there is any')
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from the config\'s base batch size to '
        'the actual one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. '
        'train_dataloader.batch_size=32 or betas="(0.9,0.98)"')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how processes were started; tools/dist_train.sh sets it')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main():
    args = parse_args()
    if not osp.isfile(args.config):
        fail(f'config not found: {args.config!r} (from {os.getcwd()!r}). '
             'The configs are under configs/')
    if not (args.resume in (None, 'auto') or '://' in args.resume
            or osp.isfile(args.resume)):
        fail(f'checkpoint not found: {args.resume!r}. Give a file to '
             '--resume, or nothing for the latest one in the work dir')

    # Imported late: the above answers at once.
    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import configs, preflight
    from mmmaskdistill.engine.checkpoints import CheckpointError
    try:
        cfg = configs.load_config(args.config, args.cfg_options, args.work_dir,
                                  args.launcher)
        if args.no_validate:
            configs.disable_validation(cfg)
        if args.amp:
            configs.enable_amp(cfg)
        if args.auto_scale_lr:
            configs.enable_lr_scaling(cfg)
        message = configs.set_resume(cfg, args.resume)
        if message and os.environ.get('RANK', '0') == '0':
            print(message, flush=True)
        preflight.check_data(cfg, ['train_dataloader', 'val_dataloader'])
        preflight.check_weights(cfg)
        configs.build_runner(cfg).train()
    except (preflight.PreflightError, CheckpointError) as error:
        fail(error)


if __name__ == '__main__':
    main()
