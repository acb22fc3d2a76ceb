import torch
import torch.nn.functional as F
from torch import Tensor


def resize_position_embedding(
    pos_embed: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Resize an absolute position embedding to another patch grid.

    Args:
        pos_embed (Tensor): [1, 1 + h*w, D], the class token's first.
        source (tuple[int, int]): Patch grid (h, w) of ``pos_embed``.
        target (tuple[int, int]): Patch grid wanted.

    Returns:
        Tensor: [1, 1 + h'*w', D], bicubically interpolated.
    """
    if source == target:
        return pos_embed
    grid = pos_embed[:, 1:].transpose(1, 2).unflatten(2, source)
    grid = F.interpolate(grid.float(), size=target, mode='bicubic', align_corners=False)
    grid = grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :1], grid], dim=1)
