"""A teacher that returns the pixels of each patch."""

from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.registry import MODELS

from .base import Teacher


@MODELS.register_module()
class PixelTeacher(Teacher):
    """The image itself as teacher T: the pixels of each patch (MAE, SimMIM).

    Args:
        patch_size (int): Side of a patch, in pixels. Defaults to 16.
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels. Defaults to 224.
        in_channels (int): Number C of image channels. Defaults to 3.
    """

    def __init__(
        self,
        patch_size: int = 16,
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
    ):
        super().__init__(img_size, patch_size, in_channels * patch_size**2)
        self.in_channels = in_channels

    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Cut images into patches.

        Args:
            images (Tensor): Normalized images [B, C, H, W].
            data_samples (list[DataSample], optional): Not used.

        Returns:
            Tensor: Pixels [B, N, p*p*C] of patches of side p, in MAE's order:
            row, column, color channel.
        """
        p = self.stride
        patches = images.unfold(2, p, p).unfold(3, p, p)  # [B, C, h, w, p, p]
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
