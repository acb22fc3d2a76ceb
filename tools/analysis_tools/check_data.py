"""Check the data, the model and the settings of a config, without training.

For example:

  python tools/analysis_tools/check_data.py CONFIG
  python tools/analysis_tools/check_data.py CONFIG --quick

The config may be one of this project, or any config of mmseg or mmpretrain. The tool
compares the data, data sets, heads, losses, augmentations, metrics and batches. An
error is something that makes training or validation impossible; with an error, the exit
status is 1. A warning says that training works, but that its result is useless or not
the one that was meant. tools/train.py makes the quick check before each training.
"""

import argparse
import os.path as osp
import sys

# command_line.py is in tools/.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))
from command_line import check_options, fail


def main() -> None:
    """Parse the command line, check the config and print the findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config file')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='read a sample of the files, as tools/train.py does (default: all files)',
    )
    parser.add_argument(
        '--loaders',
        nargs='+',
        default=['train', 'val', 'test'],
        choices=['train', 'val', 'test'],
        help='the data loaders to look at (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='number of processes that read files (default: one for each core)',
    )
    parser.add_argument(
        '--cache',
        metavar='FILE',
        help='JSON file that keeps what was read, so that the next check only reads '
        'changed files (default: data_check.json in the work directory of the config)',
    )
    parser.add_argument(
        '--no-cache', action='store_true', help='read all files again (default: off)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='settings that override those of the config (default: no changes)',
    )
    args = parser.parse_args()
    check_options(args.cfg_options)
    if not osp.isfile(args.config):
        fail(f'config not found: {args.config!r}')

    # These imports are slow and come last, so that --help answers at once.
    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import checks
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.errors import ConfigError

    try:
        cfg = load_config(args.config, args.cfg_options)
        loaders = [f'{name}_dataloader' for name in args.loaders]
        if cfg.get('test_dataloader') == cfg.get('val_dataloader'):
            loaders = [name for name in loaders if name != 'test_dataloader'] or loaders
        cache = args.cache or osp.join(cfg.work_dir, 'data_check.json')
        findings = checks.check(
            cfg,
            loaders,
            complete=not args.quick,
            workers=args.workers,
            cache=None if args.no_cache or args.quick else cache,
            progress=checks.ProgressLine,
        )
        if findings.warnings:
            print(findings.framed(), flush=True)
        findings.raise_errors()
    except ConfigError as error:
        fail(error)
    print('no errors' if findings.warnings else 'no errors and no warnings')


if __name__ == '__main__':
    main()
