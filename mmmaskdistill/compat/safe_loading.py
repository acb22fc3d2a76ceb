"""Checkpoints load with ``weights_only=True``, on every path.

Since 2.6 torch refuses any class in a checkpoint that it was not told about.
mmengine 0.10.7 writes its own ``HistoryBuffer`` and numpy scalars, so resuming
fails. The remedy tells torch about exactly what mmengine writes.

A ``HistoryBuffer`` refers to its own methods, which pickle writes as a call of
``getattr``. Allowing ``getattr`` would let a file reach any attribute of any
allowed object, so a function that knows only those methods takes its place.

Two ways around the check are closed: onedl-mmengine 0.10.12 falls back to
``weights_only=False`` after a warning, and torch's ``load_url``, with which
mmengine reads addresses, has ``weights_only=False`` as its default.
"""

import functools
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint

METHODS = ('min', 'max', 'mean', 'current')


def getattr_of_history_buffer(owner, name: str):
    """Stands for ``getattr`` in a checkpoint."""
    if owner is HistoryBuffer and name in METHODS:
        return getattr(owner, name)
    raise UnpicklingError(
        f'the file asks for the attribute {name!r} of {owner!r}. It was not '
        'written by mmengine; loading it could run code, so it is refused.'
    )


def safe_globals() -> list:
    """What mmengine writes beside tensors and plain containers.

    numpy renamed ``core`` to ``_core`` in 2.0: both names are allowed, so that
    a checkpoint of one loads with the other.
    """
    multiarray = getattr(np, '_core', None) or np.core
    multiarray = multiarray.multiarray
    numbers = np.typecodes['AllInteger'] + np.typecodes['Float'] + '?'
    return [
        HistoryBuffer,
        ConfigDict,
        (getattr_of_history_buffer, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in numbers},
        *[
            (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
            for name in ('scalar', '_reconstruct')
            for core in ('core', '_core')
        ],
    ]


def apply() -> None:
    torch.serialization.add_safe_globals(safe_globals())
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)
    if not isinstance(checkpoint.load_url, functools.partial):
        checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)
