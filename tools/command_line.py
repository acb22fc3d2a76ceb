"""What tools/train.py and tools/test.py share; it imports nothing heavy."""

import argparse
import os
import os.path as osp
import sys


def new_parser(description, starter):
    """A parser of what both take.

    Args:
        description (str): For --help.
        starter (str): The script that starts several processes.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='where logs and results go (default: work_dirs/<config>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. '
        'train_dataloader.batch_size=32 or betas="(0.9,0.98)"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help=f'how processes were started; {starter} sets it',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def parse_args(parser):
    """The command line's arguments, with a config that exists."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        fail(
            f'config not found: {args.config!r} (from {os.getcwd()!r}). '
            'The configs are under configs/'
        )
    return args


def is_first_process():
    """Whether this process speaks for all, which do not know each other yet.

    The variables are torchrun's, Open MPI's and slurm's; a launcher may run
    inside slurm, so slurm's comes last.
    """
    for name in ('RANK', 'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID'):
        if name in os.environ:
            return os.environ[name] == '0'
    return True


def fail(message):
    """End with one line, whatever the number of processes."""
    line = ' '.join(str(message).split())
    sys.exit(f'error: {line}' if is_first_process() else 1)
