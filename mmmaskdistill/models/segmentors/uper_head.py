from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import UPerHead as MMSegUPerHead
from torch import Tensor, nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class UPerHead(MMSegUPerHead):
    """mmseg's ``UPerHead`` with fewer operations, the same function.

    The last convolution takes the maps of all levels, resized to the finest
    and concatenated, which is most of UperNet's work. Here the coarser maps
    go through their parts of its kernel before they are resized, see
    :func:`conv_of_resized`. Arguments and parameters are mmseg's.
    """

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features [B, channels, H, W] for the classifier.

        Args:
            inputs (Sequence[Tensor]): Feature maps [B, D, h, w], the finest,
                H x W, first.
        """
        fusion = self.fpn_bottleneck
        if type(fusion.conv) is not nn.Conv2d:  # conv_cfg's
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        lateral = self.psp_forward(inputs)
        levels = [lateral]  # the coarsest first
        for i in range(len(inputs) - 2, -1, -1):
            lateral = self.lateral_convs[i](inputs[i]) + F.interpolate(
                lateral,
                inputs[i].shape[2:],
                mode='bilinear',
                align_corners=self.align_corners,
            )
            levels.append(self.fpn_convs[i](lateral))
        del lateral  # a map of the finest level takes much memory
        weights = list(fusion.conv.weight.split(self.channels, dim=1))
        out = F.conv2d(levels.pop(), weights.pop(0), fusion.conv.bias, padding=1)
        for level, weight in zip(levels, reversed(weights)):
            out += conv_of_resized(level, weight, out.shape[2:], self.align_corners)
        out = fusion.norm(out) if fusion.with_norm else out
        return fusion.activate(out) if fusion.with_activation else out


def conv_of_resized(
    x: Tensor, weight: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """3 x 3 convolution, zero padding, of a bilinearly resized map.

    Resizing is linear and treats all channels alike, so each of the nine
    products with the kernel can be taken at the resolution of the map. Its
    resizing and its shift are then matrices, one an axis.

    Args:
        x (Tensor): Map [B, C, h, w].
        weight (Tensor): Kernel [D, C, 3, 3].
        size (tuple[int, int]): H and W to resize to.
        align_corners (bool): As in :func:`torch.nn.functional.interpolate`.

    Returns:
        Tensor: [B, D, H, W].
    """
    rows, columns = (
        _resize_and_shift(source, target, align_corners, x)
        for source, target in zip(x.shape[2:], size)
    )  # [3, h, H], [3, w, W]
    maps = len(x) * len(weight)

    def at_full_width(i: int) -> Tensor:
        return _sum(
            F.conv2d(x, weight[:, :, i : i + 1, j : j + 1]) @ column
            for j, column in enumerate(columns)
        )  # [B, D, h, W]

    return _sum(
        torch.bmm(row.t().expand(maps, -1, -1), at_full_width(i).flatten(0, 1))
        for i, row in enumerate(rows)
    ).unflatten(0, (len(x), -1))


def _sum(terms: Iterator[Tensor]) -> Tensor:
    """Sum with two of the terms in memory at a time."""
    total = next(terms)
    for term in terms:
        total += term
        del term
    return total


def _resize_and_shift(
    source: int, target: int, align_corners: bool, like: Tensor
) -> Tensor:
    """Matrices [3, source, target] that resize and shift by -1, 0 and 1.

    What is shifted in is zero.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    unit = torch.eye(source, dtype=dtype, device=like.device)[None]
    resize = F.interpolate(unit, target, mode='linear', align_corners=align_corners)[0]
    padded = F.pad(resize, (1, 1))
    return torch.stack([padded[:, k : k + target] for k in range(3)]).to(like.dtype)
