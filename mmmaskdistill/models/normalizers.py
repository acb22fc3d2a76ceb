"""N: what is done to the teacher's features before the student predicts them.

A normalizer maps [B, N, D] to [B, N, D] and learns nothing. One with
``per_token`` treats tokens alone, so some of them, [M, D], will do.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class NoNormalizer(nn.Identity):
    """The features as they are; what a discrete teacher's tokens take."""

    per_token = True


class _Normalizer(nn.Module):
    """
    Args:
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.eps = eps


@MODELS.register_module()
class LayerNormalizer(_Normalizer):
    """Each token to zero mean and unit variance over its channels.

    Args:
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], eps=self.eps)


@MODELS.register_module()
class PatchPixelNormalizer(_Normalizer):
    """MAE's: each patch's pixels over their deviation, the unbiased one.

    ``norm_pix_loss`` of arXiv 2111.06377. Differs from
    :class:`LayerNormalizer` by the factor D / (D - 1) of the variance.

    Args:
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        mean = features.mean(-1, keepdim=True)
        variance = features.var(-1, keepdim=True)
        return (features - mean) / (variance + self.eps).sqrt()


@MODELS.register_module()
class InstanceNormalizer(_Normalizer):
    """Each channel of an image to zero mean, unit variance over its tokens.

    Args:
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    def forward(self, features: Tensor) -> Tensor:
        return F.instance_norm(features.mT, eps=self.eps).mT


@MODELS.register_module()
class BatchNormalizer(_Normalizer):
    """Each channel to zero mean, unit variance over all tokens of a batch.

    Batch normalization without affine and without memory: of several
    processes, each takes its own part of the batch.

    Args:
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    def forward(self, features: Tensor) -> Tensor:
        return F.batch_norm(features.mT, None, None, training=True, eps=self.eps).mT


@MODELS.register_module()
class L2Normalizer(nn.Module):
    """Each token to unit length."""

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1)
