"""``max_keep_ckpts=1`` never leaves a run without a checkpoint.

mmengine (0.10.7) removes the oldest checkpoint before it writes the next one. A
run killed in between has none left, and ``last_checkpoint`` names a file that
is gone. Here the oldest is removed after the next one is complete.
"""

from unittest.mock import patch

from mmengine.hooks import CheckpointHook

from .wrapping import wrap


def apply() -> None:

    @wrap(CheckpointHook, '_save_checkpoint_with_step')
    def save_then_remove(save, hook, *args, **kwargs):
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
