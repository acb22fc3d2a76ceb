"""N: what is done to the teacher's features before the student predicts them.

A normalizer maps [B, N, D] to [B, N, D] and learns nothing.
"""
import torch.nn.functional as F
from torch import Tensor, nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class LayerNormalizer(nn.Module):
    """Each token to zero mean and unit variance over its channels.

    Args:
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], eps=self.eps)
