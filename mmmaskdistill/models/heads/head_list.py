"""Several heads, one for each of several teachers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..contracts import check_part
from .base import Head


@MODELS.register_module()
class HeadList(nn.ModuleList, Head):
    """The head H for several teachers: one head for each of them.

    Args:
        heads (list[dict]): Configs of the heads, in the order of the teachers.

    Attributes:
        splits (list[int]): Channels Dt that each head predicts.
        out_features (int): Sum of the channels of all heads.
        in_features, decodes_visible, grid, class_token: Those that all heads have
            in common.

    Raises:
        ConfigError: If the heads do not take the same tokens.
    """

    def __init__(self, heads: Sequence[dict]):
        super().__init__(check_part(MODELS.build(cfg), Head) for cfg in heads)
        kinds = {
            (head.in_features, head.decodes_visible, head.grid, head.class_token)
            for head in self
        }
        if len(kinds) != 1:
            raise ConfigError(
                'HeadList has the heads '
                f'{", ".join(type(head).__name__ for head in self)} with '
                f'in_channels {[head.in_features for head in self]}, grid '
                f'{[head.grid for head in self]} and class_token '
                f'{[head.class_token for head in self]}: give all of them the same '
                'of each, and use either decoder heads only or none'
            )
        ((self.in_features, self.decodes_visible, self.grid, self.class_token),) = kinds
        self.splits = [head.out_features for head in self]
        self.out_features = sum(self.splits)

    def init_weights(self) -> None:
        """Initialize all heads."""
        for head in self:
            head.init_weights()

    def forward(self, *args) -> Tensor:
        """Concatenate the predictions of all heads along the channels.

        Args:
            *args: The inputs of each head: the student's tokens [..., Ds], and
                also the mask [B, N] if the heads are decoders.

        Returns:
            Tensor: Predictions [..., sum of Dt].
        """
        return torch.cat([head(*args) for head in self], -1)
