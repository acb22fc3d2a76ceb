"""Absolute position embedding for other image sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .relative_position import has_symbols


def resize_position_embedding(
    pos_embed: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Resize an absolute position embedding to another patch grid.

    The embedding of the patches is interpolated bicubically in float32; the embedding
    of the class token does not change. timm's ``resample_abs_pos_embed`` computes the
    same, but in timm 1.0.23 and 1.0.24 it returns the embedding unchanged if the new
    grid is square and has as many patches as the old one, such as 14 x 14 for 7 x 28.

    Args:
        pos_embed (Tensor): [1, 1 + h*w, D], the class token's embedding first.
        source (tuple[int, int]): Patch grid (h, w) of ``pos_embed``.
        target (tuple[int, int]): Patch grid (h', w') to resize to.

    Returns:
        Tensor: [1, 1 + h'*w', D], in the dtype of ``pos_embed``.
    """
    # While a model is exported for images of any size, the sides are symbols, which
    # cannot be compared without losing this freedom.
    if not has_symbols(target) and source == target:
        return pos_embed
    grid = pos_embed[:, 1:].transpose(1, 2).unflatten(2, source)  # [1, D, h, w]
    grid = F.interpolate(grid.float(), size=target, mode='bicubic', align_corners=False)
    grid = grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)  # [1, h'*w', D]
    return torch.cat([pos_embed[:, :1], grid], dim=1)
