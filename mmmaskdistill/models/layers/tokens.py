"""Select tokens of every image, by a mask or by their indices."""

from typing import NamedTuple

import torch
from torch import Tensor


class PatchIndex(NamedTuple):
    """A mask m as indices. All images of the batch hide the same number of patches.

    A mask on a GPU does not tell the host how many patches it hides, so the host would
    have to wait for it. Indices have static shapes.

    Attributes:
        hidden (Tensor): Indices [B, M] int64 of the hidden patches, ascending.
        visible (Tensor): Indices [B, N - M] int64 of the visible patches, ascending.
    """

    hidden: Tensor
    visible: Tensor


def index_patches(mask: Tensor) -> PatchIndex | None:
    """Turn a mask on the CPU into indices.

    Args:
        mask (Tensor): The mask m, [B, N] bool, True = hidden.

    Returns:
        PatchIndex | None: The indices, or None if the images hide different numbers of
        patches.
    """
    counts = set(mask.sum(1).tolist())
    if len(counts) != 1:
        return None
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return PatchIndex(*order.tensor_split([counts.pop()], 1))


def find(where: Tensor) -> tuple[Tensor, Tensor | None]:
    """Find the indices of the marked tokens in every image.

    Args:
        where (Tensor): The marked tokens, [B, N] bool, True = marked. Indices [B, M]
            int64 are returned as they are.

    Returns:
        tuple[Tensor, Tensor | None]: Two tensors [B, M], where M is the largest number
        of marked tokens in an image.

        - The indices (int64) of the marked tokens, in ascending order. An image with
          fewer than M marked tokens is padded with indices of unmarked tokens.
        - A bool tensor that is False at this padding. None for indices, which have no
          padding.
    """
    if where.dtype != torch.bool:
        return where, None
    most = max(where.sum(1).tolist(), default=0)
    index = where.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, where.gather(1, index)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Select tokens of every image by their indices.

    Args:
        x (Tensor): Tokens [B, N, D], or token ids [B, N].
        index (Tensor): Indices [B, M] into the N tokens.

    Returns:
        Tensor: The selected tokens [B, M, D], or token ids [B, M].
    """
    if x.ndim == 2:
        return x.gather(1, index)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def select(x: Tensor, where: Tensor | None) -> Tensor:
    """Select tokens of every image, and put those of all images in a row.

    Args:
        x (Tensor): Tokens [B, N, D], or token ids [B, N].
        where (Tensor | None): The tokens to select, [B, N] bool or indices [B, M]
            int64. None selects all tokens.

    Returns:
        Tensor: The selected tokens of the first image, of the second and so on,
        [B*M, D], or token ids [B*M].
    """
    if where is not None and where.dtype == torch.bool:
        return x[where]
    return (x if where is None else take(x, where)).flatten(0, 1)
