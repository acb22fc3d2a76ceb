"""Find a run's latest checkpoint, read its progress, and check that it fits."""

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
    """The progress of a run at the time of a checkpoint.

    Attributes:
        iter (int): Number of finished iterations.
        within_epoch (bool): Whether the last finished iteration belongs to an
            epoch that does not count as finished yet.
        validated (bool): Whether the model was already validated after the last
            finished iteration.
        seed (int | None): The run's seed. None if the checkpoint does not say
            it.
    """

    iter: int
    within_epoch: bool
    validated: bool
    seed: int | None


def latest_checkpoint(work_dir: str) -> str | None:
    """Find the checkpoint that a run resumes from.

    The file ``last_checkpoint`` in the work dir contains its path. If the work
    dir was moved, the checkpoint is looked for under its name in the new place.
    If ``last_checkpoint`` is missing or its checkpoint does not exist, for
    example because the run was killed before it wrote that file, the newest
    ``iter_*.pth`` or ``epoch_*.pth`` is taken.

    Args:
        work_dir (str): Folder of the run.

    Returns:
        str | None: Path of the checkpoint, or None if there is none.
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
    """Read the progress of a run from a checkpoint.

    The tensors of a local file are not read: they stay memory-mapped.

    Args:
        checkpoint (str): Path of the checkpoint, or an address that mmengine
            can read.

    Returns:
        ResumePoint: The progress of the run.

    Raises:
        CheckpointError: If the file does not exist, cannot be read, or holds
            only weights.
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
            'resume from an earlier checkpoint'
        ) from error
    meta = content.get('meta', {}) if isinstance(content, dict) else {}
    if not {'epoch', 'iter'} <= meta.keys():
        raise CheckpointError(
            f'checkpoint {checkpoint!r} holds only weights and no training '
            'state: instead of resuming, start a new run from it with '
            '--cfg-options load_from=...'
        )
    info = content.get('message_hub', {}).get('runtime_info', {})
    return ResumePoint(
        iter=meta['iter'],
        within_epoch=info.get('epoch') == meta['epoch'],
        # When validation finds the best model so far, mmengine saves this
        # checkpoint once more, in the stage `val`.
        validated=info.get('loop_stage') == 'val',
        seed=meta.get('seed'),
    )


def adopt_backbone(model: nn.Module, checkpoint: dict, name: str) -> None:
    """Turn a checkpoint of a ViT alone into a checkpoint of a model's backbone.

    A model can then start from a bare ViT, including ViTs of other projects.
    Nothing changes if the model's backbone is not a :class:`MaskDistillViT`, or
    if the checkpoint is already that of a model with a backbone.

    Args:
        model (nn.Module): The model that starts from the checkpoint.
        checkpoint (dict): The checkpoint's content. Its ``state_dict`` is
            replaced by one whose keys begin with ``backbone.``.
        name (str): The checkpoint's name, for messages.

    Raises:
        CheckpointError: If the checkpoint has no ViT, or its ViT does not cover
            the backbone.
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
    """Check that a checkpoint covers a model.

    The model's loading hooks, which may rename and resize tensors, run before
    the comparison. As a side effect, the tensors that fit are loaded.

    Args:
        model (nn.Module): The model.
        state_dict (dict): The checkpoint's weights, with keys that do not begin
            with ``module.``.
        name (str): The checkpoint's name, for messages.
        complete (bool): If True, the checkpoint must cover every tensor of the
            model. If False, it must cover the backbone except for the tensors
            in :data:`OPTIONAL`, and heads may differ. A model without a
            backbone must always be covered completely. Defaults to True.

    Returns:
        str: One line that says which tensors fit and which do not.

    Raises:
        CheckpointError: If the checkpoint does not cover the model or, with
            ``complete=False``, the backbone.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    given = _adapted(model, state_dict)
    # Batch norm only counts batches in these tensors, and older checkpoints do
    # not have them.
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
            'The checkpoint is from another architecture than the '
            "config's model: give a checkpoint that this config trained"
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
            'the weights of a backbone alone as '
            'model.backbone.init_cfg.checkpoint'
        )
    if uncovered:
        raise CheckpointError(f'{report}. {advice}')
    return report


def _adapted(model: nn.Module, state_dict: dict) -> dict:
    """Return a checkpoint's tensors after the model's loading hooks have run."""
    state_dict = dict(state_dict)
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        module._load_from_state_dict(state_dict, prefix, {}, False, [], [], [])
    return state_dict
