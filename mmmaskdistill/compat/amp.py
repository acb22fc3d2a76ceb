"""A config with mixed precision trains without an accelerator, too.

mmengine's ``AmpOptimWrapper`` (all versions) asserts that there is one. Without
one an ``OptimWrapper`` is built in its place, and the log says so. This acts
wherever the wrapper is built: through the registry, through a constructor such
as layer decay's, by ``--amp``, or by calling the class.
"""

import logging

from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from .accelerator import has_accelerator


def new_optim_wrapper(cls, loss_scale='dynamic', dtype=None, use_fsdp=False, **kwargs):
    """``AmpOptimWrapper.__new__``: what it returns need not be one, and then
    Python does not call ``AmpOptimWrapper.__init__``."""
    if cls is AmpOptimWrapper and not has_accelerator():
        print_log(
            'no accelerator found: AmpOptimWrapper is replaced by OptimWrapper '
            f'(loss_scale={loss_scale!r} and dtype={dtype!r} are dropped), '
            'training runs in float32',
            logger='current',
            level=logging.WARNING,
        )
        return OptimWrapper(**kwargs)
    return object.__new__(cls)


def apply() -> None:
    AmpOptimWrapper.__new__ = new_optim_wrapper
