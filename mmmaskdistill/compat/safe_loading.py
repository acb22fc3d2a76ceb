"""Load every checkpoint with ``weights_only=True``.

Since version 2.6, torch by default refuses every class in a checkpoint that is not on
its allow-list. mmengine 0.10.7 writes its own ``HistoryBuffer`` and NumPy scalars, so
resuming fails. This module puts exactly the classes that mmengine writes on the list.

A ``HistoryBuffer`` refers to its own methods, and pickle writes these references as
calls of ``getattr``. If ``getattr`` itself were allowed, a file could reach any
attribute of any allowed object. A function that returns only those methods takes the
place of ``getattr``.

Two ways to bypass the check are closed: onedl-mmengine 0.10.12 falls back to
``weights_only=False`` after a warning, and torch's ``load_url``, which mmengine uses to
read from URLs, has ``weights_only=False`` as its default.
"""

import functools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint

METHODS = ('min', 'max', 'mean', 'current')


def getattr_of_history_buffer(owner: Any, name: str) -> Callable:
    """Take the place of ``getattr`` when a checkpoint is loaded.

    Args:
        owner (Any): Object whose attribute the file asks for.
        name (str): Name of the attribute.

    Returns:
        Callable: The method of ``HistoryBuffer``.

    Raises:
        UnpicklingError: If the file asks for any other attribute.
    """
    if owner is HistoryBuffer and name in METHODS:
        return getattr(owner, name)
    raise UnpicklingError(
        f'the file asks for the attribute {name!r} of {owner!r}, which mmengine '
        'does not write to checkpoints. Loading the file could run code, so it is '
        'refused: load only checkpoints that mmengine wrote'
    )


def safe_globals() -> list:
    """List what mmengine writes in addition to tensors and plain containers.

    NumPy renamed ``core`` to ``_core`` in version 2.0. Both names are allowed, so
    that a checkpoint written with one version loads with the other.

    Returns:
        list: Arguments of ``torch.serialization.add_safe_globals``: classes and
        functions, or pairs of a function and its name in the file.
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
    """Extend torch's allow-list and close the two ways to bypass the check."""
    torch.serialization.add_safe_globals(safe_globals())
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)
    if not isinstance(checkpoint.load_url, functools.partial):
        checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)
