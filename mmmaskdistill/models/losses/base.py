"""What a loss L owes, and what is assumed of losses of other libraries."""

from mmpretrain.models.losses import CrossEntropyLoss
from torch import Tensor, nn


class Loss(nn.Module):
    """A loss L that says more of itself than that it is a module.

    Any module that maps predictions and targets to a scalar, the mean over tokens
    and channels, can be the loss: one of torch, mmpretrain or your own. Of such a
    module it is assumed that it compares features of one teacher, or, if it is or
    contains a ``CrossEntropyLoss`` of torch or mmpretrain, that it classifies token
    ids. A loss for which this is not true inherits from this class.

    Attributes:
        classifies (bool): Whether the targets are token ids [M] and the
            predictions are scores [M, vocabulary]. Defaults to False: both are
            features [M, Dt].
        splits (list[int] | None): Channels of each of several teachers, whose
            features are concatenated. Defaults to None: one teacher.
    """

    classifies: bool = False
    splits: list[int] | None = None

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the distance between predictions and targets.

        Args:
            prediction (Tensor): Predictions [M, Dt] of the M tokens that count.
            target (Tensor): Targets [M, Dt], or [M] int64 if it ``classifies``.

        Returns:
            Tensor: A scalar.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward')


def classifies(loss: nn.Module) -> bool:
    """Tell whether a loss, which need not be a :class:`Loss`, classifies token ids.

    Args:
        loss (nn.Module): The loss L.

    Returns:
        bool: Whether its targets are token ids.
    """
    if isinstance(loss, Loss):
        return loss.classifies
    return any(
        isinstance(part, (nn.CrossEntropyLoss, CrossEntropyLoss))
        for part in loss.modules()
    )


def splits(loss: nn.Module) -> list[int] | None:
    """Return a loss's ``splits``; None for a loss that is no :class:`Loss`.

    Args:
        loss (nn.Module): The loss L.

    Returns:
        list[int] | None: Channels of each of several teachers.
    """
    return loss.splits if isinstance(loss, Loss) else None
