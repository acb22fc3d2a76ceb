from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class HeadList(nn.ModuleList):
    """H of several teachers: a head each, their outputs side by side.

    Args:
        heads (list[dict]): Heads in the teachers' order.

    Raises:
        ConfigError: If they do not take the same tokens.
    """

    def __init__(self, heads: Sequence[dict]):
        super().__init__(MODELS.build(cfg) for cfg in heads)
        kinds = {
            (head.in_features, getattr(head, 'decodes_visible', False)) for head in self
        }
        if len(kinds) != 1:
            raise ConfigError(
                'HeadList has '
                f'{", ".join(type(head).__name__ for head in self)} of '
                f'in_channels {[head.in_features for head in self]}: take '
                'the same in_channels, and all decoders or none'
            )
        ((self.in_features, self.decodes_visible),) = kinds
        self.splits = [head.out_features for head in self]
        self.out_features = sum(self.splits)

    def init_weights(self):
        for head in self:
            head.init_weights()

    def forward(self, *args) -> Tensor:
        """As one head: predictions [..., sum of Dt]."""
        return torch.cat([head(*args) for head in self], -1)
