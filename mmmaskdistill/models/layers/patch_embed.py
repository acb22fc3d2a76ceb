"""Patch embedding of a ViT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Linear projection of non-overlapping patches.

    Images whose sides are not multiples of the patch size are padded with zeros at
    the right and at the bottom, because a segmentor may pass images of any size.

    Args:
        in_channels (int): Number C of image channels.
        embed_dims (int): Width D of the tokens.
        patch_size (int): Side of a patch in pixels.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed the patches of images.

        Args:
            x (Tensor): Images [B, C, H, W].

        Returns:
            tuple[Tensor, tuple[int, int]]: Tokens [B, h*w, D] in row-major order, and
            the patch grid (h, w), the sides divided by the patch size and rounded up.
        """
        bottom, right = (-side % self.patch_size for side in x.shape[2:])
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        x = self.proj(x)  # [B, D, h, w]
        grid = tuple(x.shape[2:])
        if torch.jit.is_tracing():
            # A trace holds one grid. While it is recorded, sizes are tensors.
            grid = tuple(map(int, grid))
        return x.flatten(2).transpose(1, 2), grid
