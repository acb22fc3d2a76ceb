from collections.abc import Sequence

from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class LossList(nn.Module):
    """L of several teachers: the weighted sum of a loss for each.

    Args:
        losses (list[dict]): Losses in the teachers' order.
        channels (list[int]): Dt of each teacher.
        weights (list[float]): Weight of each loss.

    Raises:
        ConfigError: If there are not as many of each.
    """

    def __init__(
        self, losses: Sequence[dict], channels: Sequence[int], weights: Sequence[float]
    ):
        super().__init__()
        if not len(losses) == len(channels) == len(weights):
            raise ConfigError(
                f'LossList has {len(losses)} losses, '
                f'channels={channels} and weights={weights}: '
                'give as many of each'
            )
        self.losses = nn.ModuleList(MODELS.build(cfg) for cfg in losses)
        self.splits = list(channels)
        self.weights = weights

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar, of two [M, sum of Dt]."""
        parts = zip(
            self.losses,
            self.weights,
            prediction.split(self.splits, -1),
            target.split(self.splits, -1),
        )
        return sum(weight * loss(ours, theirs) for loss, weight, ours, theirs in parts)
