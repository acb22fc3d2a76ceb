"""Read the progress of a run from its latest checkpoint."""

import os.path as osp
from typing import NamedTuple

import torch
from mmengine.runner import CheckpointLoader

from mmmaskdistill.errors import CheckpointError, first_line
from mmmaskdistill.models.checkpoints.files import latest_checkpoint

__all__ = ['ResumePoint', 'latest_checkpoint', 'read_resume_point']


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
