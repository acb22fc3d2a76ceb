"""Let configs with mixed precision also train without an accelerator.

mmengine's ``AmpOptimWrapper`` (all versions) asserts that there is an accelerator.
If there is none, an ``OptimWrapper`` is built instead, and a warning is logged. This
applies however the wrapper is built: from the registry, by an optimizer constructor
such as the one for layer decay, by ``--amp``, or by calling the class.
"""

import logging

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from .accelerator import has_accelerator


def new_optim_wrapper(
    cls: type[AmpOptimWrapper],
    loss_scale: str | float | dict = 'dynamic',
    dtype: str | torch.dtype | None = None,
    use_fsdp: bool = False,
    **kwargs,
) -> OptimWrapper:
    """Replace ``AmpOptimWrapper.__new__``.

    If this function returns an object that is not an ``AmpOptimWrapper``, Python
    does not call ``AmpOptimWrapper.__init__``.

    Args:
        cls (type[AmpOptimWrapper]): The class to create. Subclasses are created
            as usual.
        loss_scale (str | float | dict): Argument of ``AmpOptimWrapper``, dropped
            if there is no accelerator. Defaults to ``'dynamic'``.
        dtype (str | torch.dtype, optional): Argument of ``AmpOptimWrapper``,
            dropped if there is no accelerator. Defaults to None.
        use_fsdp (bool): Argument of ``AmpOptimWrapper``, dropped if there is no
            accelerator. Defaults to False.
        **kwargs: Arguments of ``OptimWrapper``.

    Returns:
        OptimWrapper: An ``AmpOptimWrapper`` that is not initialized yet, or a
        complete ``OptimWrapper`` if there is no accelerator.
    """
    if cls is AmpOptimWrapper and not has_accelerator():
        print_log(
            'no accelerator found: AmpOptimWrapper is replaced by OptimWrapper '
            f'(loss_scale={loss_scale!r} and dtype={dtype!r} are ignored), and '
            'training runs in float32',
            logger='current',
            level=logging.WARNING,
        )
        return OptimWrapper(**kwargs)
    return object.__new__(cls)


def apply() -> None:
    """Replace ``AmpOptimWrapper.__new__`` by :func:`new_optim_wrapper`."""
    AmpOptimWrapper.__new__ = new_optim_wrapper
