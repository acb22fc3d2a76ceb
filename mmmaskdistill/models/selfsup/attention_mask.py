from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class AttentionMask(nn.Module):
    """m: keeps what the teacher attends to, MILAN's semantic-aware sampling.

    Visible patches are drawn without replacement with probabilities
    proportional to the class token's attention (arXiv 2208.06049, section
    3.4): they are those with the largest log of it plus Gumbel noise, which
    the pipeline draws (``GumbelNoise``), so that masks follow from the run's
    seed.

    Args:
        num_masking_patches (int): Patches to hide in each image.
    """

    def __init__(self, num_masking_patches: int):
        super().__init__()
        self.num_masking_patches = num_masking_patches

    def forward(self, attention: Tensor, noise: Tensor) -> Tensor:
        """Mask [B, N] bool, True = hidden.

        Args:
            attention (Tensor): [B, N], of the teacher.
            noise (Tensor): [B, N], of the pipeline.

        Raises:
            ConfigError: If the pipeline draws masks, or fewer patches than to
                hide.
        """
        if not noise.is_floating_point():
            raise ConfigError(
                'AttentionMask takes noise, the pipeline draws masks: put '
                'mmmaskdistill.GumbelNoise in place of its mask generator'
            )
        if (
            noise.shape != attention.shape
            or not 0 < self.num_masking_patches < noise.shape[1]
        ):
            raise ConfigError(
                f'num_masking_patches={self.num_masking_patches}, noise of '
                f'{noise.shape[1]} patches, attention to '
                f'{attention.shape[1]}: expected as much noise as attention, '
                'and less patches to hide'
            )
        # Attention may round to 0.
        keys = attention.float().clamp(min=1e-12).log() + noise
        hidden = keys.argsort(dim=1)[:, : self.num_masking_patches]
        mask = noise.new_zeros(noise.shape, dtype=bool)
        return mask.scatter_(1, hidden, True)
