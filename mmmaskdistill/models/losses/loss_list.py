"""Several losses, one for each of several teachers."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from .base import Loss, classifies


@MODELS.register_module()
class LossList(Loss):
    """The loss L for several teachers: a weighted sum of one loss for each.

    Args:
        losses (list[dict]): Configs of the losses, in the order of the
            teachers.
        channels (list[int]): Channels Dt of each teacher.
        weights (list[float]): Weight of each loss.

    Attributes:
        splits (list[int]): Channels Dt of each teacher.
        classifies (bool): Whether one of the losses does.

    Raises:
        ConfigError: If the numbers of losses, channels and weights differ.
    """

    def __init__(
        self, losses: Sequence[dict], channels: Sequence[int], weights: Sequence[float]
    ):
        super().__init__()
        if not len(losses) == len(channels) == len(weights):
            raise ConfigError(
                f'LossList has {len(losses)} losses, channels={channels} and '
                f'weights={weights}: give the same number of each'
            )
        self.losses = nn.ModuleList(MODELS.build(cfg) for cfg in losses)
        self.splits = list(channels)
        self.classifies = any(map(classifies, self.losses))
        self.weights = weights

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the weighted sum of the losses.

        Args:
            prediction (Tensor): The student's predictions [M, sum of Dt] for
                all teachers, concatenated along the channels.
            target (Tensor): The normalized features [M, sum of Dt] of all
                teachers.

        Returns:
            Tensor: A scalar.
        """
        parts = zip(
            self.losses,
            self.weights,
            prediction.split(self.splits, -1),
            target.split(self.splits, -1),
        )
        return sum(
            weight * loss(predicted, wanted)
            for loss, weight, predicted, wanted in parts
        )
