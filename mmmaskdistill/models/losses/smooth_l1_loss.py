"""The loss of MaskDistill."""

from torch import nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class SmoothL1Loss(nn.SmoothL1Loss):
    """The smooth-L1 distance as loss L, a mean over tokens and channels.

    Args:
        beta (float): Absolute error below which the loss is quadratic and
            above which it is linear. Defaults to 1.
    """

    def __init__(self, beta: float = 1.0):
        super().__init__(beta=beta)
