"""Let mmseg's cross entropy take class weights for labels with ignored pixels.

mmseg (1.2.2) sums up the weights of all pixels with a Python loop over the images, in
which it looks up the weight of class 255 for an ignored or padded pixel and raises an
``IndexError``. Its binary cross entropy multiplies the weights with the columns of the
picture instead of with the classes. Here the loss is torch's weighted mean, in which
ignored pixels have the weight 0, and the weights of the binary loss belong to the
classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .wrapping import wrap


def total_weight(label: Tensor, class_weight: Tensor, ignore_index: int) -> Tensor:
    """Sum up the class weights of all pixels that are not ignored.

    Args:
        label (Tensor): Labels of any shape.
        class_weight (Tensor): Weight of each class, [C].
        ignore_index (int): Label of ignored pixels.

    Returns:
        Tensor: The sum, in float32.
    """
    weights = class_weight.float()[label.clamp(0, len(class_weight) - 1)]
    return torch.where(label == ignore_index, 0.0, weights).sum()


def apply() -> None:
    """Give mmseg's losses the average factor and the shape that they need."""
    # Importing the losses needs the remedy for missing compiled ops.
    from mmseg.models import losses
    from mmseg.models.losses import cross_entropy_loss

    @wrap(cross_entropy_loss, 'cross_entropy')
    def cross_entropy(
        original: Callable,
        pred: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        class_weight: Tensor | None = None,
        reduction: str = 'mean',
        avg_factor: float | None = None,
        ignore_index: int = -100,
        avg_non_ignore: bool = False,
    ):
        if class_weight is not None and avg_factor is None and reduction == 'mean':
            avg_factor = total_weight(label, class_weight, ignore_index)
        return original(
            pred,
            label,
            weight,
            class_weight,
            reduction,
            avg_factor,
            ignore_index,
            avg_non_ignore,
        )

    @wrap(cross_entropy_loss, 'binary_cross_entropy')
    def binary_cross_entropy(
        original: Callable,
        pred: Tensor,
        *args,
        class_weight: Tensor | None = None,
        **kwargs,
    ):
        if class_weight is not None and pred.dim() > 2 and pred.shape[1] > 1:
            class_weight = class_weight.view(-1, *[1] * (pred.dim() - 2))
        return original(pred, *args, class_weight=class_weight, **kwargs)

    for name in ('cross_entropy', 'binary_cross_entropy'):
        setattr(losses, name, getattr(cross_entropy_loss, name))
