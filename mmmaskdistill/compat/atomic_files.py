"""A killed run leaves no half-written checkpoint.

mmengine (0.10.7) opens a checkpoint, and the file ``last_checkpoint`` that
points to it, and writes into it: a run killed meanwhile leaves a file that
exists, is pointed to, and does not load. Here files are written beside their
destination, flushed to the disk, and renamed.
"""

import builtins
import os
from contextlib import contextmanager

from mmengine.dist import get_rank
from mmengine.fileio.backends import local_backend
from mmengine.hooks import checkpoint_hook


@contextmanager
def _replacing(path: str, mode: str, **kwargs):
    """Write a file that appears under its name when it is complete."""
    folder, name = os.path.split(os.path.realpath(path))
    # Named by rank, not by process: what a killed run left is overwritten when
    # the resumed run comes to the same checkpoint.
    temporary = os.path.join(folder, f'.{name}.{get_rank()}.tmp')
    try:
        with builtins.open(temporary, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(folder, name))
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def open_atomically(file, mode: str = 'r', **kwargs):
    """``open``, but what is written appears when the file is closed.

    Only for ``with`` statements. Appending and what is not a plain file
    (``/dev/null``, a pipe) are left to ``open``.
    """
    special = os.path.exists(file) and not os.path.isfile(file)
    if mode not in ('w', 'wb') or special:
        return builtins.open(file, mode, **kwargs)
    return _replacing(file, mode, **kwargs)


def apply() -> None:
    # The name ``open`` in the two modules that write these files.
    local_backend.open = open_atomically
    checkpoint_hook.open = open_atomically
