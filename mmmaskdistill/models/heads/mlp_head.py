"""A head of several linear layers."""

from itertools import pairwise

from timm.layers import trunc_normal_
from torch import nn

from mmmaskdistill.registry import MODELS

from .base import Head


@MODELS.register_module()
class MLPHead(nn.Sequential, Head):
    """The head H as several linear layers with GELU between them.

    It maps the student's tokens [..., Ds] to predictions [..., Dt].

    Args:
        in_channels (int): Width Ds of the student's tokens.
        out_channels (int): Channels Dt of the teacher's features.
        hidden_channels (int): Width of the hidden layers. Defaults to 2048.
        num_layers (int): Number of linear layers. Defaults to 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 2048,
        num_layers: int = 2,
    ):
        widths = [in_channels, *[hidden_channels] * (num_layers - 1)]
        layers = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        super().__init__(*layers, nn.Linear(widths[-1], out_channels))
        self.in_features, self.out_features = in_channels, out_channels

    def init_weights(self, std: float = 0.02) -> None:
        """Draw the weights as those of the student's layers; set the biases to 0.

        Args:
            std (float): Standard deviation of the normal distribution, which is
                truncated at one standard deviation. Defaults to 0.02.
        """
        for layer in self:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=std, a=-std, b=std)
                nn.init.zeros_(layer.bias)
