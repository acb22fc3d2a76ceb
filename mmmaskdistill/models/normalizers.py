"""The normalizers N, which are applied to the teacher's features."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmmaskdistill.registry import MODELS


class Normalizer(nn.Module):
    """A normalizer N: it turns the teacher's features into targets.

    A subclass implements :meth:`forward`. It has no learnable parameters.

    Attributes:
        per_token (bool): Whether each token is treated independently of the
            others, so that the normalizer can be applied to a selection of the
            tokens, [M, D], as well. A teacher may then skip the patches that do
            not count. Defaults to False.
    """

    per_token: bool = False

    def forward(self, features: Tensor) -> Tensor:
        """Normalize features.

        Args:
            features (Tensor): [B, N, D], or [M, D] if it is ``per_token``.

        Returns:
            Tensor: Normalized features of the same shape.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward')


@MODELS.register_module()
class NoNormalizer(Normalizer):
    """Leave the features as they are.

    The token ids [B, N] of a discrete teacher need this normalizer.
    """

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        """Return the features.

        Args:
            features (Tensor): Any shape.

        Returns:
            Tensor: The same tensor.
        """
        return features


class _StandardizingNormalizer(Normalizer):
    """Base class of normalizers that divide by a standard deviation.

    Args:
        eps (float): Number added to the variance. Defaults to 1e-6.
    """

    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.eps = eps


@MODELS.register_module()
class LayerNormalizer(_StandardizingNormalizer):
    """Give each token zero mean and unit variance over its channels.

    Args:
        eps (float): Number added to the variance. Defaults to 1e-6.
    """

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        """Normalize features.

        Args:
            features (Tensor): [B, N, D] or [M, D].

        Returns:
            Tensor: Normalized features of the same shape.
        """
        return F.layer_norm(features, features.shape[-1:], eps=self.eps)


@MODELS.register_module()
class PatchPixelNormalizer(_StandardizingNormalizer):
    """Normalize the pixels of each patch as MAE does.

    This is ``norm_pix_loss`` of MAE (arXiv 2111.06377). It differs from
    :class:`LayerNormalizer` in that the variance is the unbiased one, which is
    greater by the factor D / (D - 1).

    Args:
        eps (float): Number added to the variance. Defaults to 1e-6.
    """

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        """Normalize the pixels of patches.

        Args:
            features (Tensor): [B, N, D] or [M, D].

        Returns:
            Tensor: Normalized pixels of the same shape.
        """
        mean = features.mean(-1, keepdim=True)
        variance = features.var(-1, keepdim=True)
        return (features - mean) / (variance + self.eps).sqrt()


@MODELS.register_module()
class InstanceNormalizer(_StandardizingNormalizer):
    """Give each channel zero mean and unit variance over the tokens of an image.

    Args:
        eps (float): Number added to the variance. Defaults to 1e-6.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize features.

        Args:
            features (Tensor): [B, N, D].

        Returns:
            Tensor: Normalized features [B, N, D].
        """
        return F.instance_norm(features.mT, eps=self.eps).mT


@MODELS.register_module()
class BatchNormalizer(_StandardizingNormalizer):
    """Give each channel zero mean and unit variance over all tokens of a batch.

    This is batch normalization without affine parameters and without running
    statistics. In distributed training, each process normalizes its own part of
    the batch.

    Args:
        eps (float): Number added to the variance. Defaults to 1e-6.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize features.

        Args:
            features (Tensor): [B, N, D].

        Returns:
            Tensor: Normalized features [B, N, D].
        """
        return F.batch_norm(features.mT, None, None, training=True, eps=self.eps).mT


@MODELS.register_module()
class L2Normalizer(Normalizer):
    """Give each token unit length."""

    per_token = True

    def forward(self, features: Tensor) -> Tensor:
        """Normalize features.

        Args:
            features (Tensor): [B, N, D] or [M, D].

        Returns:
            Tensor: Normalized features of the same shape.
        """
        return F.normalize(features, dim=-1)
