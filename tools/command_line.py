"""The options that train.py and test.py share, and the error message of all tools.

The module imports only the standard library, so that ``--help`` and mistakes
on the command line are answered at once.
"""

import argparse
import os
import os.path as osp
import sys
from typing import NoReturn


def new_parser(description: str, starter: str) -> argparse.ArgumentParser:
    """Create a parser with the options that train.py and test.py share.

    Args:
        description (str): Text that ``--help`` prints above the options.
        starter (str): Script that starts several processes of the tool. The
            help of ``--launcher`` names it.

    Returns:
        argparse.ArgumentParser: The parser, to which the tool adds its own
        options.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config file')
    parser.add_argument(
        '--work-dir',
        help='folder for logs, checkpoints and results (default: work_dir of the '
        'config, or else work_dirs/NAME_OF_THE_CONFIG)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='settings that override those of the config, for example '
        'train_dataloader.batch_size=32 or '
        'optim_wrapper.optimizer.betas="(0.9,0.98)"; put quotes around values with '
        'spaces (default: no changes)',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='program that started the processes of a distributed run; '
        f'{starter} sets this option (default: %(default)s, a single process)',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        metavar='RANK',
        help='number of this process on its machine; some launchers set this '
        'option (default: %(default)s)',
    )
    return parser


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, and exit if the config file does not exist.

    Also sets the environment variable ``LOCAL_RANK`` if the launcher has not
    set it.

    Args:
        parser (argparse.ArgumentParser): A parser from :func:`new_parser`.

    Returns:
        argparse.Namespace: The values of the options.
    """
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        fail(
            f'config not found: {args.config!r} (from {os.getcwd()!r}). '
            'The configs are under configs/'
        )
    return args


def is_first_process() -> bool:
    """Return whether this process has rank 0, before processes are connected.

    The rank is read from the environment variables of torchrun, Open MPI and
    Slurm, in this order. Slurm comes last because the other two may run inside
    a Slurm job, where Slurm's variable is not the rank.
    """
    for name in ('RANK', 'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID'):
        if name in os.environ:
            return os.environ[name] == '0'
    return True


def fail(message: object) -> NoReturn:
    """Exit with status 1; only the first process prints the error message.

    Args:
        message (object): The message or an exception. It is printed in one
            line.
    """
    line = ' '.join(str(message).split())
    sys.exit(f'error: {line}' if is_first_process() else 1)
