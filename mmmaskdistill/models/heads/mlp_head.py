from timm.layers import trunc_normal_
from torch import nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class MLPHead(nn.Sequential):
    """H: linear layers with GELU between them.

    Args:
        in_channels (int): Width Ds of the student.
        out_channels (int): Width Dt of the teacher's features.
        hidden_channels (int): Width between. Defaults to 2048.
        num_layers (int): Linear layers. Defaults to 2.
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
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Linear(before, after), nn.GELU()]
        super().__init__(*layers, nn.Linear(widths[-1], out_channels))
        self.in_features, self.out_features = in_channels, out_channels

    def init_weights(self, std: float = 0.02):
        """Truncated normal, cut at one deviation, as the student's layers."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=std, a=-std, b=std)
                nn.init.zeros_(layer.bias)
