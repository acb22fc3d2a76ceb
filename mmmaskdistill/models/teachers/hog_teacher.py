"""A teacher that computes histograms of oriented gradients."""

import torch
from mmpretrain.models.selfsup import HOGGenerator
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from .base import Teacher


@MODELS.register_module()
class HOGTeacher(Teacher):
    """Histograms of oriented gradients as teacher T (MaskFeat, arXiv 2112.09133).

    This is mmpretrain's ``HOGGenerator`` for any patch size. The feature of a
    patch consists of the histograms of its cells, ordered by color channel,
    direction and cell, so that Dt = 3 * nbins * (patch_size / cell)^2.

    Args:
        patch_size (int): Side of a patch, in pixels; a multiple of ``cell``.
            Defaults to 16.
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels; multiples of 16, the side of the Gaussian window that
            weights the gradients. Defaults to 224.
        nbins (int): Number of directions in a histogram. Defaults to 9.
        cell (int): Side of a cell, in pixels. Defaults to 8.

    Raises:
        ConfigError: If ``patch_size`` is not a multiple of ``cell``.
    """

    def __init__(
        self,
        patch_size: int = 16,
        img_size: int | tuple[int, int] = 224,
        nbins: int = 9,
        cell: int = 8,
    ):
        if patch_size % cell:
            raise ConfigError(
                f'patch_size={patch_size}: expected a multiple of cell={cell}'
            )
        cells = patch_size // cell
        super().__init__(img_size, patch_size, 3 * nbins * cells**2)
        self.in_channels = 3
        self.generator = _Cells(cells, nbins=nbins, pool=cell)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Compute the histograms of each patch.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            data_samples (list[DataSample], optional): Not used.

        Returns:
            Tensor: Histograms [B, N, Dt].
        """
        # Rounding in reduced precision could move the direction of a gradient
        # into another bin.
        with torch.autocast(images.device.type, enabled=False):
            return self.generator(images)


class _Cells(HOGGenerator):
    """mmpretrain's generator without its assumption of 14 x 14 patches.

    Args:
        cells (int): Cells along the side of a patch.
        **kwargs: Arguments of ``HOGGenerator``.
    """

    def __init__(self, cells: int, **kwargs):
        super().__init__(**kwargs)
        self.cells = cells

    def _reshape(self, hog_feat: Tensor) -> Tensor:
        """Gather the cells [B, 3, nbins, H', W'] of each patch, [B, N, Dt]."""
        maps = hog_feat.flatten(1, 2).permute(0, 2, 3, 1)  # [B, H', W', 3*nbins]
        for dim in (1, 2):
            maps = maps.unfold(dim, self.cells, self.cells)
        # [B, h, w, 3*nbins, cells, cells]
        return maps.flatten(1, 2).flatten(2)
