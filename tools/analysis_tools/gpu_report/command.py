"""Measure everything that a GPU tells about this project, and write a report.

The steps, the most telling ones first:

  1  tests of what a GPU changes, against float32 on the CPU
  2  pre-training of ViT-B/16 and ViT-L/16 next to timm's and mmpretrain's
  3  fine-tuning, UperNet and inference next to the other libraries'
  4  where the time of a pre-training step goes, and the ways to compute its attention
  5  data loading per core against what the GPU needs, and the copies to the GPU
  6  the quickstart

All weights are random, so nothing is downloaded. A step has a share of --minutes, and
what it does not need is left to the later ones. Its result is written as soon as it is
measured: steps/N.json and steps/N.log in the folder --out, and report.md, in the form
of docs/benchmarks.md. A step that fails or takes too long does not stop the others. Run
the same command again, on another day if need be, to finish a report: what is complete
is not measured again, unless the commit, the GPU or torch has changed.
"""

import argparse
import shlex
import signal
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from command_line import fail

from . import markdown, wheels
from .machine import IN_USE, ROOT, describe
from .running import Report, locked, write_file
from .steps import make_steps

SCRIPT = 'tools/analysis_tools/gpu_report.sh'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=f'bash {SCRIPT}',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--minutes',
        type=float,
        default=20.0,
        metavar='N',
        help='time for all steps (default: %(default)g)',
    )
    parser.add_argument(
        '--steps',
        type=int,
        nargs='+',
        choices=range(1, 7),
        metavar='N',
        help='numbers of the steps to run (default: all on a GPU, 1 to 5 on a CPU)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='folder of the report (default: work_dirs/gpu_report, and with --tiny or '
        '--device cpu a folder next to it)',
    )
    parser.add_argument(
        '--device',
        choices=['cuda', 'cpu'],
        default='cuda',
        help='device to measure (default: %(default)s)',
    )
    parser.add_argument(
        '--tiny',
        action='store_true',
        help='measure at tiny sizes, which only shows that the commands work',
    )
    parser.add_argument(
        '--wheels',
        action='store_true',
        help='print the packages that a machine without a network needs, and how to '
        'take them there, and measure nothing',
    )
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        fail(f'--minutes {args.minutes:g}: expected a positive number')
    if args.out is None:
        name = 'gpu_report' if args.device == 'cuda' else 'cpu_report'
        args.out = Path('work_dirs') / (name + '_tiny' * args.tiny)
    if args.steps is None:
        args.steps = range(1, 7 if args.device == 'cuda' else 6)
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the steps and write the report.

    Args:
        argv (list[str], optional): The arguments. Defaults to None, those of the
            process.

    Returns:
        int: Exit status: 0 if all steps are complete, 130 if the process was
        interrupted, 1 otherwise.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.wheels:
        try:
            print(wheels.text())
        except PackageNotFoundError as error:
            fail(f'{error.name} is not installed: run pip install -e ".[lite,demo]"')
        return 0
    if not (ROOT / 'tests').is_dir():
        fail(f'{ROOT} has no tests: run the report in a checkout of the project')
    signal.signal(signal.SIGTERM, _interrupt)
    command = shlex.join(['bash', SCRIPT, *argv])
    machine = dict(describe(args.device), tiny=args.tiny)
    print(f'{machine["name"]}, torch {machine["torch"]}, commit {machine["commit"]}')
    if in_use := machine.get('in_use'):
        print(f'warning: {IN_USE.format(in_use / 2**30)}', flush=True)
    with locked(args.out.resolve()):
        return _run(args, machine, command)


def _run(args: argparse.Namespace, machine: dict, command: str) -> int:
    """Run the steps, and return the exit status."""
    steps = make_steps(args.device, args.tiny)
    report = Report(args.out.resolve(), machine, 60 * args.minutes, command)
    path = report.folder / 'report.md'

    def write() -> None:
        write_file(path, markdown.write_report(report, steps, args.tiny))

    status = 130
    try:
        chosen = [step for step in steps if step.number in args.steps]
        status = 0 if report.run(chosen, write) else 1
    except KeyboardInterrupt:
        print('interrupted; the same command finishes the report')
    print(f'report: {path}')
    return status


def _interrupt(*args) -> None:
    raise KeyboardInterrupt
