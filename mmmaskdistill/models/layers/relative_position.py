"""Learned relative position bias of the BEiT family, for any window.

A table has one row for each offset between two patches of an h x w window,
``(2h-1)(2w-1)`` of them, then three rows for token to patch, patch to token
and token to token.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

Window = tuple[int, int]
NUM_TOKEN_ROWS = 3


def table_length(window: Window) -> int:
    """Rows of the table of a window."""
    h, w = window
    return (2 * h - 1) * (2 * w - 1) + NUM_TOKEN_ROWS


@lru_cache(maxsize=16)
def relative_position_index(window: Window, device: torch.device) -> Tensor:
    """Row of the table for every pair (query, key).

    Returns:
        Tensor: [1 + h*w, 1 + h*w] int64, the class token first.
    """
    # Even when first asked for under inference mode, the cached index must be
    # usable in training later.
    with torch.inference_mode(False):
        h, w = window
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
        rows, columns = rows.flatten(), columns.flatten()
        down = rows[:, None] - rows[None, :] + h - 1  # [N, N]
        right = columns[:, None] - columns[None, :] + w - 1  # [N, N]
        offsets = table_length(window) - NUM_TOKEN_ROWS
        index = torch.empty(h * w + 1, h * w + 1, dtype=torch.long)
        index[1:, 1:] = down * (2 * w - 1) + right
        index[0, 1:] = offsets
        index[1:, 0] = offsets + 1
        index[0, 0] = offsets + 2
        return index.to(device)


def _geometric_knots(source: int, target: int) -> np.ndarray:
    """Where the ``source`` offsets of one axis lie among ``target`` offsets.

    Knots are 0, +-1, +-(1+q), +-(1+q+q^2) ...: dense around zero, where the
    bias varies most, and sparse far away; q is found by bisection so that the
    last knot falls on the last target offset.
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
    """[target, source] weights that resize one axis of the offset table.

    An interpolating spline is linear in its values, so resizing an axis is a
    matrix product, differentiable and exact.
    """
    if source == target:
        return np.eye(source)
    if source == 1:
        return np.ones((target, 1))
    knots = _geometric_knots(source, target)
    offsets = np.arange(-(target // 2), target // 2 + 1.0)
    # Three knots, those of a window two patches wide, carry a line at most.
    spline = make_interp_spline(knots, np.eye(source), k=3 if source > 3 else 1)
    return spline(np.clip(offsets, knots[0], knots[-1]))


def resize_relative_position_table(
    table: Tensor, source: Window, target: Window
) -> Tensor:
    """Resize a table to another window, axis by axis, by the geometric rule.

    This is the rule of the BEiT family's public code: a cubic spline over
    geometrically spaced knots. The three token rows are copied. Gradients
    flow to ``table``.

    Args:
        table (Tensor): [rows(source), heads].
        source (tuple[int, int]): Window (h, w) of ``table``, in patches.
        target (tuple[int, int]): Window wanted.

    Returns:
        Tensor: [rows(target), heads], the dtype of ``table``.
    """
    if source == target:
        return table
    if len(table) != table_length(source):
        raise ValueError(
            f'a relative position table of {len(table)} rows is not that of '
            f'a {source[0]} x {source[1]} window, which has '
            f'{table_length(source)}'
        )
    (h, w), (new_h, new_w) = ((2 * a - 1, 2 * b - 1) for a, b in (source, target))
    vertical, horizontal = (
        torch.as_tensor(_resize_matrix(s, t), device=table.device)
        for s, t in ((h, new_h), (w, new_w))
    )
    offsets = table[:-NUM_TOKEN_ROWS].double().view(h, w, -1)
    offsets = torch.einsum('ty,sx,yxn->tsn', vertical, horizontal, offsets)
    offsets = offsets.reshape(new_h * new_w, -1).to(table.dtype)
    return torch.cat([offsets, table[-NUM_TOKEN_ROWS:]])


def relative_position_bias(table: Tensor, source: Window, window: Window) -> Tensor:
    """Bias of every pair of tokens.

    Args:
        table (Tensor): [rows(source), heads].
        source (tuple[int, int]): Window the table was made for.
        window (tuple[int, int]): Window of the image at hand.

    Returns:
        Tensor: [heads, 1 + h*w, 1 + h*w], to be added to the attention logits.
    """
    table = resize_relative_position_table(table, source, window)
    return look_up(table, relative_position_index(window, table.device))


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Bias [heads, N, N] of a table [rows, heads] at ``index`` [N, N]."""
    # Heads first, so that the bias is contiguous for attention.
    bias = table.t().contiguous().index_select(1, index.flatten())
    return bias.view(-1, *index.shape)


class RelativePositionBias(nn.Module):
    """One relative position table, shared by all blocks.

    Args:
        window (tuple[int, int]): Patch grid (h, w).
        num_heads (int): Attention heads.
    """

    def __init__(self, window: Window, num_heads: int):
        super().__init__()
        self.window = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(table_length(window), num_heads)
        )

    def forward(self, window: Window) -> Tensor:
        """Bias [heads, 1 + h*w, 1 + h*w] for a grid of ``window`` patches."""
        return relative_position_bias(
            self.relative_position_bias_table, self.window, window
        )
