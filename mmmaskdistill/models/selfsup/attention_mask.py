"""Masks that the teacher's attention determines."""

from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from .masking import Masking


@MODELS.register_module()
class AttentionMask(Masking):
    """Draw a mask m that keeps the patches to which the teacher attends.

    This is MILAN's semantic-aware sampling (arXiv 2208.06049, section 3.4). The
    visible patches are drawn without replacement, with probabilities
    proportional to the attention of the teacher's class token. To this end
    Gumbel noise is added to the logarithm of the attention, and the patches
    with the largest sums are kept. The noise comes from the pipeline
    (``GumbelNoise``), so that the run's seed determines the masks.

    Args:
        num_masking_patches (int): Number of patches to hide in each image.
    """

    def forward(self, attention: Tensor, noise: Tensor) -> Tensor:
        """Draw the mask of each image.

        Args:
            attention (Tensor): The attention of the teacher's class token to
                each patch, [B, N].
            noise (Tensor): Gumbel noise from the pipeline, [B, N].

        Returns:
            Tensor: The mask m, [B, N] bool, True = hidden.

        Raises:
            ConfigError: If noise and attention differ in shape, or if there are
                not more patches than are to be hidden.
        """
        if (
            noise.shape != attention.shape
            or not 0 < self.num_masking_patches < noise.shape[1]
        ):
            raise ConfigError(
                f'num_masking_patches={self.num_masking_patches}, with noise for '
                f'{noise.shape[1]} patches and attention to '
                f'{attention.shape[1]}: expected noise and attention for the '
                'same patches, and fewer patches to hide than there are'
            )
        # A small attention may be rounded to 0, which has no finite logarithm.
        keys = attention.float().clamp(min=1e-12).log() + noise
        hidden = keys.argsort(dim=1)[:, : self.num_masking_patches]
        mask = noise.new_zeros(noise.shape, dtype=bool)
        return mask.scatter_(1, hidden, True)
