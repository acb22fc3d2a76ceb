"""Time of a pre-training step with the copies of its batch to the device.

The batches are in memory, so nothing is loaded. They are copied as mmengine does by
default (from ordinary memory, while the host waits), from pinned memory without
waiting, and from pinned memory one step ahead (``prefetch = True`` in a config). For
example:

  python tools/analysis_tools/benchmark.py transfer --device cuda --amp --batch 256
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from . import measure, pretrain
from . import sides as common

# Number of different batches, each of which is one step of a timed call.
BATCHES = 4
MEAN, STD = [124.0, 116.0, 104.0], [58.0, 57.0, 57.0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job, which are those of this project's step."""
    pretrain.add_step_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    """Measure the three ways and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine``, ``batch`` and ``ways`` with the times of a step in seconds.
    """
    from mmengine.logging import MMLogger
    from prettytable import PrettyTable

    import mmmaskdistill  # noqa: F401

    MMLogger.get_current_instance().setLevel('ERROR')  # keeps the output short
    device = torch.device(args.device)
    measure.keep_freed_memory()
    torch.manual_seed(0)
    seconds = measure.interleave(ways(args, device), args.repeats, device)
    table = PrettyTable(['copies', 'ms per step (quartiles)'], align='r')
    figures = {}
    for name, times in seconds.items():
        figures[name] = measure.spread([t / BATCHES for t in times])
        ms = {key: f'{1e3 * value:.2f}' for key, value in figures[name].items()}
        table.add_row([name, f'{ms["median"]} ({ms["low"]} to {ms["high"]})'])
    print(table)
    print(measure.machine(device))
    return dict(machine=measure.machine(device), batch=args.batch, ways=figures)


def ways(args: argparse.Namespace, device: torch.device) -> dict[str, Callable]:
    """Make the functions that train on all batches.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the model.

    Returns:
        dict[str, Callable]: The functions by name.
    """
    from mmpretrain.structures import DataSample

    from mmmaskdistill.engine.prefetching import prefetched
    from mmmaskdistill.registry import MODELS

    side = pretrain.build(args, device)['ours']
    model, _ = side.model
    model.data_preprocessor = MODELS.build(
        dict(
            type='mmmaskdistill.TwoViewDataPreprocessor',
            **dict(mean=MEAN, std=STD, second_mean=MEAN, second_std=STD),
        )
    ).to(device)

    # The pipeline packs two pictures if the teacher sees another size.
    sizes = {args.img_size: 1}
    if args.teacher_img_size:
        sizes = dict.fromkeys((args.img_size, args.teacher_img_size), 1)
    patches = (args.img_size // 16) ** 2

    def pinned(x: Tensor) -> Tensor:
        return x.pin_memory() if device.type == 'cuda' else x

    def make(place: Callable[[Tensor], Tensor]) -> list[dict]:
        batches = []
        for _ in range(BATCHES):
            views = [
                place(torch.randint(256, (args.batch, 3, s, s), dtype=torch.uint8))
                for s in sizes
            ]
            masks = torch.rand(args.batch, patches).argsort(1) < round(0.4 * patches)
            batches.append(
                dict(
                    inputs=views if len(views) > 1 else views[0],
                    data_samples=[DataSample(mask=place(mask)) for mask in masks],
                )
            )
        return batches

    def train(data: dict) -> Tensor:
        return model.loss(**model.data_preprocessor(data, True))['loss']

    inputs = {}
    side = common.as_timed(
        side._replace(output=lambda: train(inputs['data'])), args, device
    )

    def steps(batches: list[dict], non_blocking: bool, ahead: bool) -> Callable:
        def call() -> None:
            model.data_preprocessor._non_blocking = non_blocking
            # The data preprocessor writes into the samples.
            copies = [
                dict(b, data_samples=[s.clone() for s in b['data_samples']])
                for b in batches
            ]
            for data in prefetched(copies, model) if ahead else copies:
                inputs['data'] = data
                side.call()

        return call

    ordinary, fast = make(lambda x: x), make(pinned)
    return {
        'waiting, as by default': steps(ordinary, False, False),
        'pinned memory, without waiting': steps(fast, True, False),
        'pinned memory, one step ahead': steps(fast, True, True),
    }
