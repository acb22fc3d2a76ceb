"""The linear head of MaskDistill."""

from timm.layers import trunc_normal_
from torch import nn

from mmmaskdistill.registry import MODELS

from .base import Head


@MODELS.register_module()
class LinearHead(nn.Linear, Head):
    """The head H as one linear layer.

    It maps the student's tokens [..., Ds] to predictions [..., Dt].

    Args:
        in_channels (int): Width Ds of the student's tokens.
        out_channels (int): Channels Dt of the teacher's features.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)

    def init_weights(self, std: float = 0.02) -> None:
        """Draw the weights as those of the student's layers; set the bias to 0.

        Args:
            std (float): Standard deviation of the normal distribution, which is
                truncated at one standard deviation. Defaults to 0.02.
        """
        trunc_normal_(self.weight, std=std, a=-std, b=std)
        nn.init.zeros_(self.bias)
