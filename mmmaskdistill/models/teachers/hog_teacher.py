import torch
from mmpretrain.models.selfsup import HOGGenerator
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from .base import Teacher


@MODELS.register_module()
class HOGTeacher(Teacher):
    """T: histograms of oriented gradients (MaskFeat, arXiv 2112.09133).

    mmpretrain's ``HOGGenerator`` for any patch size: the cells of a patch,
    channel by channel.

    Args:
        patch_size (int): Side of a patch, in pixels; a multiple of ``cell``.
            Defaults to 16.
        img_size (int | tuple[int, int]): Image height and width, multiples of
            16, the window that weighs gradients. Defaults to 224.
        nbins (int): Directions. Defaults to 9.
        cell (int): Side of a cell, in pixels. Defaults to 8.
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
        self.generator = _Cells(cells, nbins=nbins, pool=cell)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Histograms [B, N, Dt] of normalized images [B, 3, H, W]."""
        # In reduced precision a gradient's direction changes its bin.
        with torch.autocast(images.device.type, enabled=False):
            return self.generator(images)


class _Cells(HOGGenerator):
    """The generator, which by itself assumes 14 x 14 patches."""

    def __init__(self, cells: int, **kwargs):
        super().__init__(**kwargs)
        self.cells = cells

    def _reshape(self, hog_feat: Tensor) -> Tensor:
        maps = hog_feat.flatten(1, 2).permute(0, 2, 3, 1)  # [B, H, W, 27]
        for dim in (1, 2):
            maps = maps.unfold(dim, self.cells, self.cells)
        return maps.flatten(1, 2).flatten(2)
