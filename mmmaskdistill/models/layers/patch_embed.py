import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Linear projection of non-overlapping patches.

    Images whose sides are no multiples of the patch are padded with zeros at
    the right and the bottom, so that a segmentor may feed any size.

    Args:
        in_channels (int): Image channels.
        embed_dims (int): Width D of the tokens.
        patch_size (int): Side of a patch, in pixels.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed images [B, 3, H, W].

        Returns:
            tuple: tokens [B, h*w, D] in row-major order, and (h, w).
        """
        bottom, right = (-side % self.patch_size for side in x.shape[2:])
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        x = self.proj(x)  # [B, D, h, w]
        return x.flatten(2).transpose(1, 2), tuple(x.shape[2:])
