"""Train a model: pre-training, classification or segmentation.

The config decides what is trained. For example:

  python tools/train.py configs/quickstart/pretrain.py
  python tools/train.py CONFIG --resume --cfg-options train_dataloader.batch_size=32

tools/dist_train.sh starts this tool on several GPUs.
"""

import argparse
import os.path as osp
from copy import deepcopy

from command_line import (
    fail,
    is_first_process,
    leave_process_group,
    new_parser,
    parse_args,
)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, starter='tools/dist_train.sh')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue a stopped run from this checkpoint; without CHECKPOINT, from '
        'the latest checkpoint in the work directory, or from the beginning if '
        "there is none (default: the config's setting)",
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help="train in mixed precision (default: the config's precision)",
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training (default: evaluate as the config says)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the ratio of the actual global batch size '
        'to auto_scale_lr.base_batch_size of the config (default: off)',
    )
    return parse_args(parser)


def main() -> None:
    """Check the command line and the config, then train."""
    args = arguments()
    if not (
        args.resume in (None, 'auto') or '://' in args.resume or osp.exists(args.resume)
    ):
        fail(
            f'checkpoint not found: {args.resume!r}. Give --resume an existing '
            'file or work dir, or no value to use the latest checkpoint of the run'
        )

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import checks, configs
    from mmmaskdistill.errors import CheckpointError, ConfigError

    asked = {}
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
        findings = checks.check(cfg)
        if findings.warnings and is_first_process():
            print(findings.framed(), flush=True)
        findings.raise_errors()
        asked = deepcopy(cfg)  # what is built is taken out of the config
        runner = configs.build_runner(cfg)
        checks.check_masks(cfg, runner.model)
        if findings.warnings:
            runner.register_hook(checks.WarningHook(findings.warnings), 'LOWEST')
        runner.train()
    except (ConfigError, CheckpointError) as error:
        fail(error)
    except (ValueError, LookupError, RuntimeError, TypeError) as error:
        message = checks.explain_failure(error, asked)
        if message is None:
            raise
        fail(message)


if __name__ == '__main__':
    main()
    leave_process_group()
