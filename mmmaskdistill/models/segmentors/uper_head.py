"""mmseg's UPerNet head with fewer operations."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import UPerHead as MMSegUPerHead
from torch import Tensor, nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class UPerHead(MMSegUPerHead):
    """mmseg's ``UPerHead``, computed with fewer operations.

    The last convolution takes the maps of all levels, resized to the finest
    level and concatenated. This is most of UperNet's work. Here each coarser
    map is convolved with its part of the kernel before it is resized, see
    :func:`conv_of_resized`. The arguments and the parameters are those of mmseg,
    and so is the result in float32. In bfloat16 the levels are rounded in another
    order: against float32, the rms error was 1.02 % here and 0.90 % with mmseg's head.
    """

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute the features for the classifier.

        Args:
            inputs (Sequence[Tensor]): Feature maps [B, D, h, w], the finest,
                of size H x W, first.

        Returns:
            Tensor: Features [B, channels, H, W].
        """
        fusion = self.fpn_bottleneck
        if type(fusion.conv) is not nn.Conv2d:  # another layer, by conv_cfg
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        lateral = self.psp_forward(inputs)
        levels = [lateral]  # the coarsest level first
        for i in range(len(inputs) - 2, -1, -1):
            lateral = self.lateral_convs[i](inputs[i]) + F.interpolate(
                lateral,
                inputs[i].shape[2:],
                mode='bilinear',
                align_corners=self.align_corners,
            )
            levels.append(self.fpn_convs[i](lateral))
        del lateral  # frees a map of the finest level, which is large
        weights = list(fusion.conv.weight.split(self.channels, dim=1))
        out = F.conv2d(levels.pop(), weights.pop(0), fusion.conv.bias, padding=1)
        for level, weight in zip(levels, reversed(weights)):
            out += conv_of_resized(level, weight, out.shape[2:], self.align_corners)
        out = fusion.norm(out) if fusion.with_norm else out
        return fusion.activate(out) if fusion.with_activation else out


def conv_of_resized(
    x: Tensor, weight: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Compute a 3 x 3 convolution of a map that is resized bilinearly.

    The convolution is padded with zeros. Its multiplications with the kernel
    are done before the map is resized, at the map's own resolution. This is
    possible because resizing is linear and treats all channels alike: for each
    of the nine positions in the kernel, the map goes through a 1 x 1
    convolution, is resized and shifted, and the nine results are added.
    Resizing and shifting together are a product with one matrix for the rows
    and one for the columns.

    Args:
        x (Tensor): Map [B, C, h, w].
        weight (Tensor): Kernel [D, C, 3, 3].
        size (tuple[int, int]): Height H and width W to resize to.
        align_corners (bool): As in :func:`torch.nn.functional.interpolate`.

    Returns:
        Tensor: [B, D, H, W].
    """
    rows, columns = (
        _resize_and_shift(source, target, align_corners, x)
        for source, target in zip(x.shape[2:], size)
    )  # [3, h, H], [3, w, W]
    maps = x.shape[0] * len(weight)

    def at_full_width(i: int) -> Tensor:
        return _sum(
            F.conv2d(x, weight[:, :, i : i + 1, j : j + 1]) @ column
            for j, column in enumerate(columns)
        )  # [B, D, h, W]

    return _sum(
        torch.bmm(row.t().expand(maps, -1, -1), at_full_width(i).flatten(0, 1))
        for i, row in enumerate(rows)
    ).unflatten(0, (-1, len(weight)))


def _sum(terms: Iterator[Tensor]) -> Tensor:
    """Add up terms with only the sum and one term in memory at a time."""
    total = next(terms)
    for term in terms:
        total += term
        del term
    return total


def _resize_and_shift(
    source: int, target: int, align_corners: bool, like: Tensor
) -> Tensor:
    """Make matrices [3, source, target] that resize and shift by -1, 0 and 1.

    Zeros are shifted in at the border.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    unit = torch.eye(source, dtype=dtype, device=like.device)[None]
    resize = F.interpolate(unit, target, mode='linear', align_corners=align_corners)[0]
    padded = F.pad(resize, (1, 1))
    return torch.stack([padded[:, k : k + target] for k in range(3)]).to(like.dtype)
