"""The options that train.py and test.py share, and the error message of all tools.

The module imports only the standard library, so that ``--help`` and mistakes
on the command line are answered at once.
"""

import argparse
import gc
import os
import os.path as osp
import sys
from contextlib import suppress
from typing import NoReturn

# A path or the name of a class may have characters that a terminal does not know.
with suppress(AttributeError):
    sys.stdout.reconfigure(errors='backslashreplace')


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
    check_options(args.cfg_options)
    if not osp.isfile(args.config):
        fail(
            f'config not found: {args.config!r} (from {os.getcwd()!r}). '
            'The configs are under configs/'
        )
    return args


def check_options(options: list[str] | None) -> None:
    """Exit if an override of the config has no key or no value.

    Args:
        options (list[str] | None): Values of ``--cfg-options``.
    """
    for option in options or []:
        if not option.partition('=')[0] or '=' not in option:
            fail(
                f'--cfg-options {option!r}: expected KEY=VALUE, such as '
                'train_dataloader.batch_size=32. Put a value with blanks in quotes: '
                'KEY="A VALUE"'
            )


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
            line. An exception with a list of ``messages`` is printed in one line for
            each of them.
    """
    messages = getattr(message, 'messages', [message])
    lines = (f'error: {" ".join(str(text).split())}' for text in messages)
    sys.exit('\n'.join(lines) if is_first_process() else 1)


def leave_process_group() -> None:
    """End the communication between processes, if there are several.

    Call it when nothing refers to the model any longer: gloo's threads run as long as
    the model that they synchronize exists, and may abort a process that exits with
    them. NCCL warns of such an exit.
    """
    import torch  # a slow import

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # A runner and its model refer to each other.
