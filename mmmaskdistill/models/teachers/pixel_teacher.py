from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.registry import MODELS

from .base import Teacher


@MODELS.register_module()
class PixelTeacher(Teacher):
    """T: the image itself, each patch's pixels (MAE, SimMIM).

    Args:
        patch_size (int): Side of a patch, in pixels. Defaults to 16.
        img_size (int | tuple[int, int]): Image height and width. Defaults to
            224.
    """

    def __init__(self, patch_size: int = 16, img_size: int | tuple[int, int] = 224):
        super().__init__(img_size, patch_size, 3 * patch_size**2)

    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Pixels [B, N, p*p*3] of normalized images, in MAE's order."""
        p = self.stride
        patches = images.unfold(2, p, p).unfold(3, p, p)  # [B, 3, h, w, p, p]
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
