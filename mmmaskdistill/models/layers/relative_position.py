"""Learned relative position bias of the BEiT family, for any patch grid.

The table of a patch grid (h, w) has one row for each offset between two patches,
``(2h-1)(2w-1)`` in total, then three rows for the pairs (query, key) with the class
token: class token and patch, patch and class token, class token and itself. The
columns are the attention heads.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

NUM_TOKEN_ROWS = 3


def table_length(grid: tuple[int, int]) -> int:
    """Return the number of rows of a patch grid's relative position table."""
    h, w = grid
    return (2 * h - 1) * (2 * w - 1) + NUM_TOKEN_ROWS


@lru_cache(maxsize=16)
def relative_position_index(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Find the row of the table for every pair (query, key).

    The result is cached and must not be modified.

    Args:
        grid (tuple[int, int]): Patch grid (h, w).
        device (torch.device): Device of the result.

    Returns:
        Tensor: [1 + h*w, 1 + h*w] int64, the class token first.
    """
    # An index that is first computed under inference mode is used in training later,
    # which torch only allows for tensors made outside inference mode.
    with torch.inference_mode(False):
        h, w = grid
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
        rows, columns = rows.flatten(), columns.flatten()
        down = rows[:, None] - rows[None, :] + h - 1  # [N, N]
        right = columns[:, None] - columns[None, :] + w - 1  # [N, N]
        offsets = table_length(grid) - NUM_TOKEN_ROWS
        index = torch.empty(h * w + 1, h * w + 1, dtype=torch.long)
        index[1:, 1:] = down * (2 * w - 1) + right
        index[0, 1:] = offsets
        index[1:, 0] = offsets + 1
        index[0, 0] = offsets + 2
        return index.to(device)


def _geometric_knots(source: int, target: int) -> np.ndarray:
    """Place the ``source`` offsets of one axis among its ``target`` offsets.

    The knots are 0, ±1, ±(1+q), ±(1+q+q^2) ...: dense around zero, where the bias
    varies most, and sparse far away. The ratio q is found by bisection between 1.01
    and 1.5 such that the last knot falls on the last target offset.
    """
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if (1 - q ** (source // 2)) / (1 - q) > target // 2:
            right = q
        else:
            left = q
    positive = np.cumsum(q ** np.arange(source // 2))
    return np.concatenate([-positive[::-1], [0.0], positive])


@lru_cache(maxsize=64)
def _resize_matrix(source: int, target: int) -> np.ndarray:
    """Return the matrix [target, source] that resizes one axis of the offset table.

    An interpolating spline depends linearly on the values at its knots, so resizing an
    axis is a matrix product, which is exact and differentiable.
    """
    if source == target:
        return np.eye(source)
    if source == 1:
        return np.ones((target, 1))
    knots = _geometric_knots(source, target)
    offsets = np.arange(-(target // 2), target // 2 + 1.0)
    # A cubic spline needs more than the three knots of a grid that is two patches wide.
    # Such a grid is interpolated linearly.
    spline = make_interp_spline(knots, np.eye(source), k=3 if source > 3 else 1)
    return spline(np.clip(offsets, knots[0], knots[-1]))


def resize_relative_position_table(
    table: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Resize a relative position table to another patch grid.

    This follows the BEiT family's public code: each axis is interpolated by a cubic
    spline over geometrically spaced knots. The three rows of the class token are
    copied. Gradients flow back to ``table``.

    Args:
        table (Tensor): [rows, heads] with ``table_length(source)`` rows.
        source (tuple[int, int]): Patch grid (h, w) that the table was made for.
        target (tuple[int, int]): Patch grid (h', w') to resize to.

    Returns:
        Tensor: [rows, heads] with ``table_length(target)`` rows, in the dtype of
        ``table``; ``table`` itself if the two grids are the same.

    Raises:
        ValueError: If the grids differ and ``table`` does not have the number of
            rows that ``source`` needs.
    """
    if source == target:
        return table
    if len(table) != table_length(source):
        raise ValueError(
            f'a relative position table of {len(table)} rows does not belong to a '
            f'{source[0]} x {source[1]} patch grid, which has {table_length(source)} '
            'rows: give the patch grid that the table was made for'
        )
    (h, w), (new_h, new_w) = ((2 * a - 1, 2 * b - 1) for a, b in (source, target))
    vertical, horizontal = (
        torch.as_tensor(_resize_matrix(s, t), device=table.device)
        for s, t in ((h, new_h), (w, new_w))
    )
    offsets = table[:-NUM_TOKEN_ROWS].double().view(h, w, -1)  # [h, w, heads]
    offsets = torch.einsum('ty,sx,yxn->tsn', vertical, horizontal, offsets)
    offsets = offsets.reshape(new_h * new_w, -1).to(table.dtype)
    return torch.cat([offsets, table[-NUM_TOKEN_ROWS:]])


def relative_position_bias(
    table: Tensor, source: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Compute the bias of every pair of tokens, to be added to the attention logits.

    Args:
        table (Tensor): Relative position table [rows, heads].
        source (tuple[int, int]): Patch grid that the table was made for.
        grid (tuple[int, int]): Patch grid (h, w) of the images; the table is resized to
            it.

    Returns:
        Tensor: [heads, 1 + h*w, 1 + h*w], the class token first.

    Raises:
        ValueError: See :func:`resize_relative_position_table`.
    """
    table = resize_relative_position_table(table, source, grid)
    return look_up(table, relative_position_index(grid, table.device))


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Look up the bias of every pair of tokens in a table.

    Args:
        table (Tensor): Relative position table [rows, heads].
        index (Tensor): Row of the table for every pair (query, key), [N, N].

    Returns:
        Tensor: [heads, N, N], contiguous.
    """
    # The heads come first because attention needs a contiguous bias.
    bias = table.t().contiguous().index_select(1, index.flatten())
    return bias.view(-1, *index.shape)


class RelativePositionBias(nn.Module):
    """Relative position table that all blocks share.

    Args:
        table_grid (tuple[int, int]): Patch grid (h, w) that the table is made for.
        num_heads (int): Number of attention heads.
    """

    def __init__(self, table_grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.table_grid = table_grid
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(table_length(table_grid), num_heads)
        )

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Compute the bias for images of any patch grid.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the images.

        Returns:
            Tensor: [heads, 1 + h*w, 1 + h*w], the class token first.
        """
        return relative_position_bias(
            self.relative_position_bias_table, self.table_grid, grid
        )
