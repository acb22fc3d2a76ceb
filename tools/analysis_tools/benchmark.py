"""Time ours against other libraries, side by side in one process.

The sides have the same weights and data, are first shown to compute the same,
and then take turns. Where glibc allocates, what computes keeps the memory it
frees: to get it from the kernel anew can take longer than to compute, for one
side more than for the other.

    python tools/analysis_tools/benchmark.py pretrain --against timm mmpretrain
    python tools/analysis_tools/benchmark.py JOB --help
"""

import argparse
import json
import os

from benchmarks import data, evaluate, finetune, pretrain, resume, segment, start

# A job is a module with a docstring for --help, `add_arguments(parser)`, and
# `run(args)`, which measures, prints, and returns what goes into the JSON file.
JOBS = dict(
    pretrain=pretrain,
    finetune=finetune,
    segment=segment,
    eval=evaluate,
    data=data,
    resume=resume,
    start=start,
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest='job', metavar='JOB', required=True)
    for name, module in JOBS.items():
        job = jobs.add_parser(
            name,
            help=module.__doc__.split('\n')[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(job)
        job.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


def main():
    args = parse_args()
    result = dict(job=args.job, options=vars(args), **JOBS[args.job].run(args))
    if args.out:
        with open(args.out + '.tmp', 'w') as file:
            json.dump(result, file, indent=2)
        os.replace(args.out + '.tmp', args.out)


if __name__ == '__main__':
    main()
