from timm.layers import trunc_normal_
from torch import nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class LinearHead(nn.Linear):
    """H: one linear layer from the student's width to the teacher's.

    Args:
        in_channels (int): Width Ds of the student.
        out_channels (int): Width Dt of the teacher's features.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)

    def init_weights(self, std: float = 0.02):
        """Truncated normal, cut at one deviation, as the student's layers."""
        trunc_normal_(self.weight, std=std, a=-std, b=std)
        nn.init.zeros_(self.bias)
