"""Train any config: masked distillation, classification or segmentation."""

import os.path as osp

from command_line import fail, is_first_process, new_parser, parse_args


def arguments():
    parser = new_parser(__doc__, starter='tools/dist_train.sh')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a value, from the latest '
        'one in the work dir, if there is any',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--no-validate', action='store_true', help='do not evaluate during training'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate from the config's base batch size to "
        'the actual one',
    )
    return parse_args(parser)


def main():
    args = arguments()
    if not (
        args.resume in (None, 'auto') or '://' in args.resume or osp.isfile(args.resume)
    ):
        fail(
            f'checkpoint not found: {args.resume!r}. Give a file to '
            '--resume, or nothing for the latest one in the work dir'
        )

    # Imported late: the above answers at once.
    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import configs, preflight
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        cfg = configs.load_config(
            args.config, args.cfg_options, args.work_dir, args.launcher
        )
        if args.no_validate:
            configs.disable_validation(cfg)
        if args.amp:
            configs.enable_amp(cfg)
        if args.auto_scale_lr:
            configs.enable_lr_scaling(cfg)
        message = configs.set_resume(cfg, args.resume)
        if message and is_first_process():
            print(message, flush=True)
        preflight.check_data(cfg, ['train_dataloader', 'val_dataloader'])
        preflight.check_weights(cfg)
        runner = configs.build_runner(cfg)
        preflight.check_masks(cfg, runner.model)
        runner.train()
    except (ConfigError, CheckpointError) as error:
        fail(error)


if __name__ == '__main__':
    main()
