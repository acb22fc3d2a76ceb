"""Keep at least one complete checkpoint, even with ``max_keep_ckpts=1``.

mmengine (0.10.7) removes the oldest checkpoint before it writes the next one. A run
that is killed in between has no checkpoint left, and ``last_checkpoint`` names a file
that no longer exists. Here the oldest checkpoint is removed after the next one is
complete.
"""

from collections.abc import Callable
from unittest.mock import patch

from mmengine.hooks import CheckpointHook

from .wrapping import wrap


def apply() -> None:
    """Let ``CheckpointHook`` remove old checkpoints after saving the new one."""

    @wrap(CheckpointHook, '_save_checkpoint_with_step')
    def save_then_remove(save: Callable, hook: CheckpointHook, *args, **kwargs):
        backend = hook.file_backend
        removals = []
        with patch.multiple(
            backend,
            remove=lambda path: removals.append(('remove', path)),
            rmtree=lambda path: removals.append(('rmtree', path)),
        ):
            save(hook, *args, **kwargs)
        for remove, path in removals:
            if path != hook.last_ckpt:
                getattr(backend, remove)(path)
