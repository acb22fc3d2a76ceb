"""Time and memory of a pre-training step with each objective.

The objectives are the paper's, with the loss at the hidden patches; the loss at all
patches of the same masked images; and the loss at all patches without a mask. The
recipe's share of the patches is hidden. With a mask that rises from none, a step costs
as much as without a mask at first, and as with the recipe's mask in the end. For
example:

  python tools/analysis_tools/benchmark.py objectives --batch 8
"""

import argparse

import torch
from torch import nn

from . import measure, pretrain
from . import sides as common
from .sides import Side

PAPER = 'hidden patches'
# For each objective the patches that count, and the share that is hidden.
OBJECTIVES = {
    PAPER: ('hidden', pretrain.MASKED),
    'all patches': ('all', pretrain.MASKED),
    'all patches, no mask': ('all', 0.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job, which are those of this project's step."""
    pretrain.add_step_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    """Measure all objectives and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine`` and what :func:`.sides.time_sides` measures.
    """
    from mmengine.logging import MMLogger

    import mmmaskdistill  # noqa: F401

    MMLogger.get_current_instance().setLevel('ERROR')  # keeps the output short
    measure.keep_freed_memory()
    device = torch.device(args.device)
    rate = measure.product_rate(device, torch.bfloat16 if args.amp else torch.float32)
    sides = build(args, device)
    *_, figures = common.time_sides(sides, args, device, rate, OBJECTIVES)
    common.print_table(figures['sides'], PAPER)
    print(measure.machine(device))
    return dict(machine=measure.machine(device), **figures)


def build(args: argparse.Namespace, device: torch.device) -> dict[str, Side]:
    """Build the training step of each objective.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the models and images.

    Returns:
        dict[str, Side]: The steps by name. All start from the same weights and images.
    """
    return {
        name: _build(args, device, *objective) for name, objective in OBJECTIVES.items()
    }


def _build(
    args: argparse.Namespace, device: torch.device, predict: str, masked: float
) -> Side:
    torch.manual_seed(0)
    model = pretrain.build_ours(args, predict).to(device)
    views, samples = pretrain.make_batch(args, device, masked)
    return common.training(
        lambda: model.loss(views, samples)['loss'],
        nn.ModuleList([model, model.teacher]),
        fused=True,
    )
