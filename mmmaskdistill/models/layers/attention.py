"""Multi-head self-attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_kernels import trained_attention
from .memory_saving import join_heads, split_heads
from .relative_position import (
    look_up,
    relative_position_index,
    resize_relative_position_table,
    table_length,
)
from .tokens import take


class Attention(nn.Module):
    """Multi-head self-attention of the BEiT family.

    The projections of queries and values have a bias, that of keys has none: a bias
    of the keys would add the same number to all logits of a query and cancel in the
    softmax.

    A learned relative position bias can be added to the logits. It is looked up in a
    table that belongs to this block (``table_grid``), is computed once for all blocks
    (``shared_bias`` of :meth:`forward`), or is the sum of both.

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Number of attention heads. Must divide ``dim``.
        table_grid (tuple[int, int], optional): Patch grid (h, w) that this block's own
            relative position table is made for. Defaults to None, no table.
        way (str): How attention with a relative position bias is computed in training,
            see :func:`.trained_attention`. Defaults to ``'auto'``.

    Raises:
        ValueError: If ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        table_grid: tuple[int, int] | None = None,
        way: str = 'auto',
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide embed_dims={dim}')
        self.num_heads = num_heads
        self.table_grid = table_grid
        self.way = way
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        if table_grid is not None:
            self.relative_position_bias_table = nn.Parameter(
                torch.zeros(table_length(table_grid), num_heads)
            )
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int],
        shared_bias: Tensor | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Attend from all tokens, or from some of them, to all tokens.

        Args:
            x (Tensor): Normalized tokens [B, 1+N, D], the class token first.
            grid (tuple[int, int]): Patch grid (h, w), N = h*w.
            shared_bias (Tensor, optional): Relative position bias that all blocks
                share, [heads, 1+N, 1+N]. Defaults to None, no shared bias.
            queries (Tensor, optional): Indices [B, M] of the tokens to compute. The
                other tokens only serve as keys and values. Defaults to None, all
                tokens.

        Returns:
            Tensor: [B, 1+N, D], or [B, M, D] with ``queries``.
        """
        qkv = self.qkv(x)  # [B, 1+N, 3D]
        qkv = qkv + self.qkv_bias().to(qkv.dtype)
        if queries is None:
            projected = [qkv]
        else:
            dim = qkv.shape[2] // 3
            q, kv = qkv.split([dim, 2 * dim], 2)
            projected = [take(q, queries), kv]
        return self.proj(self.attend(projected, grid, shared_bias, queries))

    def qkv_bias(self) -> Tensor:
        """Return the biases of queries, keys (zero) and values, [3D]."""
        return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])

    def attend(
        self,
        projected: list[Tensor],
        grid: tuple[int, int],
        shared_bias: Tensor | None,
        queries: Tensor | None,
    ) -> Tensor:
        """Compute the outputs of all heads from their queries, keys and values.

        Args:
            projected (list[Tensor]): See :func:`trained_attention`.
            grid (tuple[int, int]): As in :meth:`forward`.
            shared_bias (Tensor | None): As in :meth:`forward`.
            queries (Tensor | None): As in :meth:`forward`.

        Returns:
            Tensor: [B, M, D], the outputs of all heads side by side.
        """
        bias, index = self._bias(grid, shared_bias)
        if bias is not None:
            return trained_attention(
                projected, self.num_heads, bias, queries, index, self.way
            )
        q, k, v = split_heads(projected, self.num_heads)
        x = F.scaled_dot_product_attention(q, k, v)  # [B, heads, M, d]
        return join_heads(x)

    def weights(
        self, x: Tensor, grid: tuple[int, int], shared_bias: Tensor | None = None
    ) -> Tensor:
        """Compute the attention weights, for pictures and analyses.

        Args:
            x (Tensor): As in :meth:`forward`.
            grid (tuple[int, int]): As in :meth:`forward`.
            shared_bias (Tensor, optional): As in :meth:`forward`.

        Returns:
            Tensor: The weights of the keys (last axis) for each query, [B, heads,
            1+N, 1+N].
        """
        qkv = self.qkv(x)
        qkv = qkv + self.qkv_bias().to(qkv.dtype)
        q, k, _ = split_heads([qkv], self.num_heads)
        logits = q @ k.mT / q.shape[-1] ** 0.5
        bias, index = self._bias(grid, shared_bias)
        if bias is not None:
            logits = logits + (bias if index is None else look_up(bias, index))
        return logits.softmax(-1)

    def _bias(
        self, grid: tuple[int, int], shared_bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the ``bias`` and ``index`` arguments of :func:`trained_attention`.

        A table of this block's own is passed on as a table and its index rather than
        as a bias [heads, 1+N, 1+N]: all blocks share one index, so less is kept for
        backward. Both values are None if there is no relative position bias.
        """
        if self.table_grid is None:
            return shared_bias, None
        table = resize_relative_position_table(
            self.relative_position_bias_table, self.table_grid, grid
        )
        index = relative_position_index(grid, table.device)
        if shared_bias is None:
            return table, index
        return look_up(table, index) + shared_bias, None
