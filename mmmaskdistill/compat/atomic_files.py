"""Write checkpoints so that a killed run never leaves an incomplete one.

mmengine (0.10.7) writes a checkpoint, and the file ``last_checkpoint`` that names it,
directly under their final names. A run that is killed meanwhile leaves a checkpoint
that ``last_checkpoint`` may name but that does not load. Here a file is written under
a temporary name in the same folder, flushed to the disk, and then renamed.
"""

import builtins
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

from mmengine.dist import get_rank
from mmengine.fileio.backends import local_backend
from mmengine.hooks import checkpoint_hook


@contextmanager
def _replacing(path: str | os.PathLike, mode: str, **kwargs) -> Iterator[IO]:
    """Open a file that appears under its name only when it is complete."""
    folder, name = os.path.split(os.path.realpath(path))
    # The temporary name contains the rank and not the process ID. A temporary
    # file that a killed run left behind is therefore overwritten when the resumed
    # run writes the same checkpoint.
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


def open_atomically(
    file: str | os.PathLike, mode: str = 'r', **kwargs
) -> AbstractContextManager[IO]:
    """Open a file like ``open``, but make written content visible only on closing.

    Modes other than ``w`` and ``wb``, and paths that are not regular files (such
    as ``/dev/null`` or a pipe), are passed on to ``open``.

    Args:
        file (str | os.PathLike): Path of the file.
        mode (str): Mode as for ``open``. Defaults to ``'r'``.
        **kwargs: Further arguments of ``open``.

    Returns:
        AbstractContextManager[IO]: A context manager that returns the file. It
        must be used in a ``with`` statement.
    """
    special = os.path.exists(file) and not os.path.isfile(file)
    if mode not in ('w', 'wb') or special:
        return builtins.open(file, mode, **kwargs)
    return _replacing(file, mode, **kwargs)


def apply() -> None:
    """Replace ``open`` in the two modules of mmengine that write these files."""
    local_backend.open = open_atomically
    checkpoint_hook.open = open_atomically
