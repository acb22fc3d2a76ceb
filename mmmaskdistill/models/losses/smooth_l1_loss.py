from torch import nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class SmoothL1Loss(nn.SmoothL1Loss):
    """L: smooth-L1 distance, mean over tokens and channels.

    Args:
        beta (float): Error at which the square turns into a line.
            Defaults to 1.
    """

    def __init__(self, beta: float = 1.0):
        super().__init__(beta=beta)
