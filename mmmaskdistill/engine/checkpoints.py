"""What a checkpoint says about its run, and whether it fits a model."""

import os.path as osp
from glob import escape, glob
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import nn

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.weights import (
    OPTIONAL,
    first_few,
    first_line,
    fit_to_vit,
    named_tensors,
)


class ResumePoint(NamedTuple):
    """Where a run stopped.

    Attributes:
        iter (int): Finished iterations.
        within_epoch (bool): Whether the last of them is of an epoch that does
            not count as finished.
        validated (bool): Whether the model was validated after them.
        seed (int, optional): The run's seed.
    """

    iter: int
    within_epoch: bool
    validated: bool
    seed: int | None


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that a run in ``work_dir`` goes on from.

    ``last_checkpoint`` names it. A run killed between writing a checkpoint
    and naming it, or a moved folder, is no reason to start over: then it is
    the newest ``iter_*.pth`` or ``epoch_*.pth``.

    Returns:
        str, optional: Its path, None if there is none.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if osp.isfile(pointer):
        with open(pointer) as file:
            named = file.read().strip()
        for path in (named, osp.join(work_dir, osp.basename(named))):
            if osp.isfile(path):
                return path
    written = [
        path
        for pattern in ('iter_*.pth', 'epoch_*.pth')
        for path in glob(osp.join(escape(work_dir), pattern))
    ]
    return max(written, key=osp.getmtime, default=None)


def read_resume_point(checkpoint: str) -> ResumePoint:
    """Read a checkpoint's progress without reading its tensors.

    Raises:
        CheckpointError: If there is no such file, it cannot be read, or it
            holds weights only.
    """
    if '://' not in checkpoint and not osp.isfile(checkpoint):
        raise CheckpointError(f'checkpoint {checkpoint!r} does not exist')
    try:
        if osp.isfile(checkpoint):
            content = torch.load(
                checkpoint, map_location='cpu', mmap=True, weights_only=True
            )
        else:
            content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    except Exception as error:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} cannot be read ({first_line(error)}): '
            'resume from an earlier one'
        ) from error
    meta = content.get('meta', {}) if isinstance(content, dict) else {}
    if not {'epoch', 'iter'} <= meta.keys():
        raise CheckpointError(
            f'checkpoint {checkpoint!r} holds no training state, only '
            'weights: start from it with --cfg-options load_from=... instead '
            'of resuming'
        )
    info = content.get('message_hub', {}).get('runtime_info', {})
    return ResumePoint(
        iter=meta['iter'],
        within_epoch=info.get('epoch') == meta['epoch'],
        # The best checkpoint so far is saved again while validating.
        validated=info.get('loop_stage') == 'val',
        seed=meta.get('seed'),
    )


def adopt_backbone(model: nn.Module, checkpoint: dict, name: str) -> None:
    """Let a ViT alone, of another project too, be what a model starts from.

    Args:
        model (nn.Module): The model; only one whose backbone is a
            :class:`MaskDistillViT` is helped.
        checkpoint (dict): A checkpoint's content. If it is not that of a
            model with a backbone, its ``state_dict`` becomes so.
        name (str): The checkpoint's name, for messages.

    Raises:
        CheckpointError: If it has no ViT, or does not cover the backbone.
    """
    while is_model_wrapper(model):
        model = model.module
    vit = getattr(model, 'backbone', None)
    tensors = named_tensors(checkpoint)
    if not isinstance(vit, MaskDistillViT) or any(
        key.startswith('backbone.') for key in tensors
    ):
        return
    own, report = fit_to_vit(tensors, vit, name)
    print_log('\n  '.join(report), logger='current')
    checkpoint['state_dict'] = {f'backbone.{k}': v for k, v in own.items()}


def check_coverage(
    model: nn.Module, state_dict: dict, name: str, complete: bool = True
) -> str:
    """Compare a checkpoint's tensors with a model's.

    They are compared as the model's own loading hooks leave them, which may
    rename and resize; what fits is loaded on the way.

    Args:
        model (nn.Module): The model.
        state_dict (dict): The checkpoint's weights, keys without ``module.``.
        name (str): The checkpoint's name, for messages.
        complete (bool): Whether every tensor of the model must be covered, or
            those of its backbone, all but :data:`OPTIONAL`: heads may then
            differ. A model without a backbone must always be covered.

    Returns:
        str: One line that says what fits and what does not.

    Raises:
        CheckpointError: If the model, or its backbone, is not covered.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    given = _adapted(model, state_dict)
    # Batch norm only counts with them, and older checkpoints lack them.
    counters = '.num_batches_tracked'
    wanted = {
        key: tensor.shape
        for key, tensor in model.state_dict().items()
        if not key.endswith(counters)
    }
    differ = {
        key: f'{key} is {tuple(given[key].shape)}, not {tuple(shape)}'
        for key, shape in wanted.items()
        if key in given and given[key].shape != shape
    }
    missing = [key for key in wanted if key not in given]
    matched = len(wanted) - len(differ) - len(missing)
    report = f"{matched} of the model's {len(wanted)} tensors match checkpoint {name!r}"
    if differ:
        report += f'; other shape: {first_few(list(differ.values()))}'
    if missing:
        report += f'; not in the checkpoint: {first_few(missing)}'
    unused = [key for key in given if key not in wanted and not key.endswith(counters)]
    if unused:
        report += f'; not in the model: {first_few(unused)}'

    uncovered = [*differ, *missing]
    if complete or not hasattr(model, 'backbone'):
        advice = (
            'The checkpoint is of another architecture than the '
            "config's model: give the checkpoint that this config "
            'trained'
        )
    else:
        optional = tuple(f'backbone.{key}' for key in OPTIONAL)
        uncovered = [
            key
            for key in uncovered
            if key.startswith('backbone.') and not key.startswith(optional)
        ]
        advice = (
            'The checkpoint does not cover the backbone: give a '
            'checkpoint of a whole model with this backbone, or give '
            'weights of a backbone alone as '
            'model.backbone.init_cfg.checkpoint'
        )
    if uncovered:
        raise CheckpointError(f'{report}. {advice}')
    return report


def _adapted(model: nn.Module, state_dict: dict) -> dict:
    """A checkpoint's tensors as the model's loading hooks leave them."""
    state_dict = dict(state_dict)
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        module._load_from_state_dict(state_dict, prefix, {}, False, [], [], [])
    return state_dict
