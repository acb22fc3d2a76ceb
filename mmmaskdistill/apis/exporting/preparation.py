"""Give a copy of a model the operators that exporters know, and one size of images."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import (
    Attention,
    RelativePositionBias,
    resize_position_embedding,
    resize_relative_position_table,
)


def copy_for_export(model: nn.Module, size: Sequence[int] | None) -> nn.Module:
    """Copy a model to the CPU in the form in which it is exported.

    Args:
        model (nn.Module): The model; it does not change.
        size (Sequence[int], optional): Height and width of the images. The position
            tables of a ViT are resized once and for all. None keeps the tables, and the
            graph resizes them.

    Returns:
        nn.Module: The copy, in eval mode and without gradients.
    """
    model = deepcopy(model).cpu().float().eval().requires_grad_(False)
    for part in list(model.modules()):
        if isinstance(part, MaskDistillViT) and size is not None:
            fix_size(part, size)
        for name, child in part.named_children():
            if type(child) is nn.AdaptiveAvgPool2d:
                setattr(part, name, MatrixPool(child.output_size))
            elif type(child) is Upsample and not child.size:
                # mmseg's turns the sides into numbers, torch's keeps symbols.
                setattr(
                    part,
                    name,
                    nn.Upsample(
                        scale_factor=child.scale_factor,
                        mode=child.mode,
                        align_corners=child.align_corners,
                    ),
                )
    return model


def fix_size(vit: MaskDistillViT, size: Sequence[int]) -> None:
    """Resize the position tables of a ViT in place to one size of images.

    Args:
        vit (MaskDistillViT): The ViT.
        size (Sequence[int]): Height and width of the images in pixels.
    """
    grid = tuple(-(-side // vit.patch_size) for side in size)
    for part in vit.modules():
        if isinstance(part, (Attention, RelativePositionBias)) and part.table_grid:
            table = resize_relative_position_table(
                part.relative_position_bias_table, part.table_grid, grid
            )
            part.relative_position_bias_table = nn.Parameter(table, False)
            part.table_grid = grid
    if vit.pos_embed is not None:
        position = resize_position_embedding(vit.pos_embed, vit.grid, grid)
        vit.pos_embed = nn.Parameter(position, False)
    vit.grid = grid


class MatrixPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as products with matrices.

    ONNX has no such operator, and torch makes one only for maps of a known size.

    Args:
        output_size (int | tuple[int | None, int | None] | None): As in
            ``nn.AdaptiveAvgPool2d``.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None] | None):
        super().__init__()
        if not isinstance(output_size, (tuple, list)):
            output_size = (output_size, output_size)
        self.output_size = tuple(output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps.

        Args:
            x (Tensor): Maps [B, C, H, W].

        Returns:
            Tensor: [B, C, h, w] for the output size (h, w).
        """
        if self.output_size == (1, 1):
            return x.mean((2, 3), keepdim=True)
        rows, columns = self.output_size
        if rows is not None:
            x = _means(x.shape[2], rows, x) @ x
        if columns is not None:
            x = x @ _means(x.shape[3], columns, x).mT
        return x


def _means(source: int, target: int, like: Tensor) -> Tensor:
    """Make the matrix [target, source] that averages over parts of equal length.

    Part i reaches from ``floor(i * source / target)`` up to, but without,
    ``ceil((i + 1) * source / target)``.
    """
    parts = torch.arange(target, device=like.device)[:, None]
    starts = parts * source // target
    ends = ((parts + 1) * source + target - 1) // target
    positions = torch.arange(source, device=like.device)
    inside = ((positions >= starts) & (positions < ends)).to(like.dtype)
    return inside / (ends - starts).to(like.dtype)
