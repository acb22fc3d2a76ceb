"""Let mmseg's Dice loss leave ignored pixels out.

mmseg (1.2.2) takes ``ignore_index`` of its ``DiceLoss`` for the number of a class. What
the model predicts at ignored and padded pixels therefore counts as wrong, whatever it
is, and is trained to be nothing. A head of a single channel is trained to predict the
label 0 instead of 1, unlike by mmseg's cross entropy. Here predictions at ignored
pixels count as little as their labels, and a single channel stands for the label 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .wrapping import wrap


def apply() -> None:
    """Let ``DiceLoss`` compute labels of classes without the ignored pixels."""
    # Importing the losses needs the remedy for missing compiled ops.
    from mmseg.models.losses import dice_loss

    @wrap(dice_loss.DiceLoss, 'forward')
    def forward(
        original: Callable,
        loss: dice_loss.DiceLoss,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
        **kwargs,
    ):
        if pred.shape == target.shape:
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
        classes = pred.shape[1]
        if loss.activate:
            softmax = not loss.use_sigmoid and classes != 1
            pred = pred.softmax(1) if softmax else _sigmoid_if(pred, loss.use_sigmoid)
        valid = target != ignore_index
        if loss.ignore_index is not None and loss.ignore_index >= classes:
            valid &= target != loss.ignore_index
        if classes == 1:
            one_hot = (target == 1)[:, None]
        else:
            one_hot = dice_loss._expand_onehot_labels_dice(pred, target)
        return loss.loss_weight * dice_loss.dice_loss(
            torch.where(valid[:, None], pred, 0),
            torch.where(valid[:, None], one_hot, 0),
            weight,
            eps=loss.eps,
            reduction=reduction_override or loss.reduction,
            naive_dice=loss.naive_dice,
            avg_factor=avg_factor,
            ignore_index=loss.ignore_index,
        )


def _sigmoid_if(pred: Tensor, use_sigmoid: bool) -> Tensor:
    return pred.sigmoid() if use_sigmoid else pred
