"""Learned relative position bias of the BEiT family, for any patch grid.

The table of a patch grid (h, w) has one row for each offset between two patches,
``(2h-1)(2w-1)`` in total, then three rows for the pairs (query, key) with the class
token: class token and patch, patch and class token, class token and itself. The
columns are the attention heads.
"""

from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

Array = TypeVar('Array', np.ndarray, Tensor)
NUM_TOKEN_ROWS = 3
# The largest side of the patch grid that an exported graph of any size can take.
LARGEST = 128


def table_length(grid: tuple[int, int]) -> int:
    """Return the number of rows of a patch grid's relative position table."""
    h, w = grid
    return (2 * h - 1) * (2 * w - 1) + NUM_TOKEN_ROWS


def relative_position_index(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Find the row of the table for every pair (query, key).

    The result is cached and must not be modified. While a model is compiled, or
    exported for images of any size, it is computed as part of the graph instead.

    Args:
        grid (tuple[int, int]): Patch grid (h, w).
        device (torch.device): Device of the result.

    Returns:
        Tensor: [1 + h*w, 1 + h*w] int64, the class token first.
    """
    if has_symbols(grid) or torch.compiler.is_dynamo_compiling():
        return _symbolic_index(grid, device)
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        # Graphs keep it as a constant. What they compute must not enter the cache.
        return _index_on_cpu(grid).to(device)
    return _cached_index(grid, device)


def has_symbols(grid: tuple[int, int]) -> bool:
    """Tell whether a patch grid has symbols as sides, for export at any size."""
    return any(isinstance(side, torch.SymInt) for side in grid)


@lru_cache(maxsize=16)
def _cached_index(grid: tuple[int, int], device: torch.device) -> Tensor:
    # An index that is first computed under inference mode is used in training later,
    # which torch only allows for tensors made outside inference mode.
    with torch.inference_mode(False):
        return _index_on_cpu(grid).to(device)


@lru_cache(maxsize=16)
def _index_on_cpu(grid: tuple[int, int]) -> Tensor:
    h, w = grid
    offsets = table_length(grid) - NUM_TOKEN_ROWS
    # Tracers and exporters see neither what numpy computes nor from_dlpack.
    index = np.empty((h * w + 1, h * w + 1), np.int64)
    index[1:, 1:] = _offset_rows(np.arange(h), np.arange(w))
    index[0, 1:] = offsets
    index[1:, 0] = offsets + 1
    index[0, 0] = offsets + 2
    with torch.inference_mode(False):
        return torch.from_dlpack(index)


def _symbolic_index(grid: tuple[int, int], device: torch.device) -> Tensor:
    h, w = grid
    rows = _offset_rows(torch.arange(h, device=device), torch.arange(w, device=device))
    # The three rows of the class token are the last ones of the table.
    end = torch.zeros_like(rows[:, :1]) + table_length(grid)  # [N, 1]
    below = torch.cat([end - 2, rows], 1)  # [N, 1 + N]
    first = torch.cat([end[:1] - 1, end.t() - 3], 1)  # [1, 1 + N]
    return torch.cat([first, below])


def _offset_rows(rows: Array, columns: Array) -> Array:
    """Find the rows of the offsets between patches, [N, N], in a table."""
    h, w = rows.shape[0], columns.shape[0]
    down = rows[:, None] - rows + h - 1  # [h, h]
    right = columns[:, None] - columns + w - 1  # [w, w]
    pairs = down[:, None, :, None] * (2 * w - 1) + right[:, None, :]  # [h, w, h, w]
    return pairs.reshape(h * w, h * w)


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
    if has_symbols(target):
        return _resize_to_symbols(table, source, target)
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


@lru_cache(maxsize=4)
def _resize_matrices(source: int) -> Tensor:
    """Stack the matrices that resize one axis to 1, 2, ... :data:`LARGEST` patches.

    Args:
        source (int): Number of patches along the axis of the table.

    Returns:
        Tensor: [LARGEST, 2 * LARGEST - 1, 2 * source - 1] float32. Matrix i is for
        i + 1 patches and has 2 * i + 1 rows; the others are zero.
    """
    matrices = np.zeros((LARGEST, 2 * LARGEST - 1, 2 * source - 1), np.float32)
    for i in range(LARGEST):
        matrices[i, : 2 * i + 1] = _resize_matrix(2 * source - 1, 2 * i + 1)
    return torch.from_dlpack(matrices)


def _resize_to_symbols(
    table: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Compute :func:`resize_relative_position_table` in a graph for any patch grid.

    An exported graph cannot fit splines, so it holds a matrix for each size.
    """
    down, right = (
        _resize_matrices(s).to(table.device)[t - 1, : 2 * t - 1]
        for s, t in zip(source, target)
    )
    h, w = (2 * side - 1 for side in source)
    offsets = table[:-NUM_TOKEN_ROWS].float().view(h, w, -1)  # [h, w, heads]
    offsets = (down @ offsets.flatten(1)).unflatten(1, (w, -1))  # [h', w, heads]
    offsets = (right @ offsets).flatten(0, 1)  # [h' * w', heads]
    return torch.cat([offsets.to(table.dtype), table[-NUM_TOKEN_ROWS:]])


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
