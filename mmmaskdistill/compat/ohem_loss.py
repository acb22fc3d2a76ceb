"""Let mmseg's OHEM cross entropy be the loss of any head.

mmseg (1.2.2) calls the losses of most heads with ``weight`` and ``ignore_index``, which
its ``OhemCrossEntropy`` does not take, so that it raises a ``TypeError`` in all heads
but PIDNet's and DDRNet's. Here it takes both; weights of pixels, which OHEM chooses
itself, are refused.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmmaskdistill.errors import ConfigError

from .wrapping import wrap


def apply() -> None:
    """Let ``OhemCrossEntropy`` take the arguments that heads give."""
    # Importing the losses needs the remedy for missing compiled ops.
    from mmseg.models.losses import OhemCrossEntropy

    @wrap(OhemCrossEntropy, 'forward')
    def forward(
        original: Callable,
        loss: OhemCrossEntropy,
        score: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        **kwargs,
    ):
        if weight is not None:
            raise ConfigError(
                'OhemCrossEntropy chooses pixels itself, and so does the sampler of '
                'the head: set sampler=None of the head, or another loss'
            )
        if ignore_index is not None and ignore_index != loss.ignore_label:
            target = torch.where(target == ignore_index, loss.ignore_label, target)
        return original(loss, score, target)
