"""Compare the speed and memory of this project with those of other libraries.

Each JOB measures one task with this project and with one or more other libraries.
The tables call these the sides; the side named ours is this project. For example:

  python tools/analysis_tools/benchmark.py pretrain --against timm mmpretrain
  python tools/analysis_tools/benchmark.py JOB --help

In the tables, a column such as "time / ours" is a ratio to the value of this
project: above 1, the other library needs more. "kept" is the memory of the
activations that are kept for the backward pass.

The jobs pretrain, finetune, segment and eval run all sides in one process. The
sides have the same weights and the same data. The tool first checks that they
compute the same result and then times them in turn. With the C library glibc, the
process keeps freed memory for later allocations: requesting it from the kernel
again can take longer than the computation, and can slow down one side more than
the other.
"""

import argparse

from benchmarks import (
    attention,
    check,
    data,
    evaluate,
    finetune,
    objectives,
    predict,
    pretrain,
    profiling,
    resume,
    segment,
    start,
    tile,
    transfer,
)
from benchmarks.results import Results
from command_line import fail

# Each job is a module. Its docstring is printed by --help, `add_arguments(parser)`
# adds its options, and `run(args)` measures, prints the table and returns the
# content of the JSON file. A job may pass what it has measured so far to `args.keep`.
JOBS = dict(
    pretrain=pretrain,
    finetune=finetune,
    segment=segment,
    eval=evaluate,
    profile=profiling,
    attention=attention,
    transfer=transfer,
    objectives=objectives,
    data=data,
    resume=resume,
    start=start,
    check=check,
    predict=predict,
    tile=tile,
)


def parse_args() -> argparse.Namespace:
    """Parse the command line of the job that it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(
        dest='job', metavar='JOB', required=True, help='what to measure:'
    )
    for name, module in JOBS.items():
        job = jobs.add_parser(
            name,
            help=module.__doc__.split('\n')[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(job)
        job.add_argument(
            '--out',
            metavar='FILE',
            help='JSON file to which the measurements are written (default: none)',
        )
    return parser.parse_args()


def main() -> None:
    """Run the job and write its measurements."""
    args = parse_args()
    args.keep = Results(args.job, dict(vars(args)))
    try:
        args.keep(JOBS[args.job].run(args))
    except ValueError as error:
        from mmmaskdistill.errors import ConfigError  # a slow import

        if isinstance(error, ConfigError):
            fail(error)
        raise


if __name__ == '__main__':
    main()
