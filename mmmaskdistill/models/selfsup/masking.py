"""The base class of masks that the model makes from the teacher's attention."""

from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError


class Masking(nn.Module):
    """A mask m that depends on the teacher's attention.

    All other masks are drawn in the pipeline, see
    :class:`mmmaskdistill.datasets.MaskGenerator`. Random numbers come from the
    pipeline here as well (``GumbelNoise``), so that the run's seed determines the
    masks.

    Args:
        num_masking_patches (int): Number of patches to hide in each image, 1 or more.
            It cannot change during the run.

    Raises:
        ConfigError: If ``num_masking_patches`` is not such a number.

    Attributes:
        num_masking_patches (int): Number of patches that are hidden in each image.
    """

    def __init__(self, num_masking_patches: int):
        super().__init__()
        if (
            isinstance(num_masking_patches, bool)
            or not isinstance(num_masking_patches, int)
            or num_masking_patches < 1
        ):
            raise ConfigError(
                f'masking.num_masking_patches={num_masking_patches!r}: expected a '
                'whole number, 1 or more. Only masks that the pipeline draws, such as '
                'those of BlockMaskGenerator, can hide another number in each batch'
            )
        self.num_masking_patches = num_masking_patches

    def forward(self, attention: Tensor, noise: Tensor) -> Tensor:
        """Make the mask of each image.

        Args:
            attention (Tensor): The attention of the teacher's class token to each
                patch, [B, N].
            noise (Tensor): Noise from the pipeline, [B, N].

        Returns:
            Tensor: The mask m, [B, N] bool, True = hidden.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward')
