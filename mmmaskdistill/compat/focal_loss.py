"""Let mmseg's focal loss train on the CPU, and without compiled ops on a GPU.

On the CPU, mmseg (1.2.2) takes one column of the one-hot labels, ``target[:, C]``,
where it needs the first C columns, ``target[:, :C]``, and fails for any number of
classes but one. On a GPU it calls an operator of compiled mmcv. Here both cases are
computed by mmseg's own formula in PyTorch.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from .wrapping import wrap


def apply() -> None:
    """Let ``FocalLoss`` compute labels of classes with PyTorch."""
    # Importing the losses needs the remedy for missing compiled ops.
    from mmseg.models.losses import focal_loss

    has_ops = find_spec('mmcv._ext') is not None

    @wrap(focal_loss.FocalLoss, 'forward')
    def forward(
        original: Callable,
        loss: focal_loss.FocalLoss,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
        **kwargs,
    ):
        classes = pred.shape[1]
        if pred.shape == target.shape or classes == 1 or (pred.is_cuda and has_ops):
            return original(
                loss,
                pred,
                target,
                weight,
                avg_factor,
                reduction_override,
                ignore_index,
                **kwargs,
            )
        valid = target != ignore_index
        one_hot = F.one_hot(torch.where(valid, target, 0), classes)  # [B, ..., C]
        reduction = reduction_override or loss.reduction
        value = loss.loss_weight * focal_loss.py_sigmoid_focal_loss(
            pred.movedim(1, -1).reshape(-1, classes),
            one_hot.reshape(-1, classes),
            None,
            None if weight is None else weight.reshape(-1),
            gamma=loss.gamma,
            alpha=loss.alpha,
            class_weight=loss.class_weight,
            valid_mask=valid.reshape(-1, 1),
            reduction=reduction,
            avg_factor=avg_factor,
        )
        if reduction == 'none':
            value = value.reshape(one_hot.shape).movedim(-1, 1)
        return value
