"""Find the latest checkpoint of a run and read the progress of the run from it."""

import os.path as osp
from glob import escape, glob
from typing import NamedTuple

import torch
from mmengine.runner import CheckpointLoader

from mmmaskdistill.errors import CheckpointError, first_line


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
