"""Multi-head self-attention, and functions that select tokens by a mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory_saving import biased_attention, recomputing_linear, split_heads
from .relative_position import (
    look_up,
    relative_position_index,
    resize_relative_position_table,
    table_length,
)


class Attention(nn.Module):
    """Multi-head self-attention of the BEiT family.

    The projections of queries and values have a bias, that of keys has none: a bias
    of the keys would add the same number to all logits of a query and cancel in the
    softmax.

    A learned relative position bias can be added to the logits. It is looked up in a
    table that belongs to this block (``window``), is computed once for all blocks
    (``shared_bias`` of :meth:`forward`), or is the sum of both.

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Number of attention heads. Must divide ``dim``.
        window (tuple[int, int], optional): Patch grid (h, w) that this block's own
            relative position table is made for. Defaults to None, no table.

    Raises:
        ValueError: If ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int, window: tuple[int, int] | None = None):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide embed_dims={dim}')
        self.num_heads = num_heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        if window is not None:
            self.relative_position_bias_table = nn.Parameter(
                torch.zeros(table_length(window), num_heads)
            )
        self.proj = nn.Linear(dim, dim)

    def _bias(
        self, grid: tuple[int, int], shared_bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the ``bias`` and ``index`` arguments of :func:`biased_attention`.

        A table of this block's own is passed on as a table and its index rather than
        as a bias [heads, 1+N, 1+N]: all blocks share one index, so less is kept for
        backward. Both values are None if there is no relative position bias.
        """
        if self.window is None:
            return shared_bias, None
        table = resize_relative_position_table(
            self.relative_position_bias_table, self.window, grid
        )
        index = relative_position_index(grid, table.device)
        if shared_bias is None:
            return table, index
        return look_up(table, index) + shared_bias, None

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int],
        shared_bias: Tensor | None = None,
        queries: Tensor | None = None,
        norm: nn.LayerNorm | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Compute ``scale * attention(norm(x))`` for all tokens or for some of them.

        Every query attends to all tokens. The normalization and the layer scale belong
        to the block; they are passed in so that their outputs need not be kept for
        backward, see :func:`recomputing_linear`.

        Args:
            x (Tensor): Tokens [B, 1+N, D], the class token first.
            grid (tuple[int, int]): Patch grid (h, w), N = h*w.
            shared_bias (Tensor, optional): Relative position bias that all blocks
                share, [heads, 1+N, 1+N]. Defaults to None, no shared bias.
            queries (Tensor, optional): Indices [B, M] of the tokens to compute. The
                other tokens only serve as keys and values. Defaults to None, all
                tokens.
            norm (nn.LayerNorm, optional): Normalization of the tokens before
                attention. Defaults to None, no normalization.
            scale (Tensor, optional): Layer scale [D]. Defaults to None, no scale.

        Returns:
            Tensor: [B, 1+N, D], or [B, M, D] with ``queries``.
        """
        no_bias = torch.zeros_like(self.v_bias)
        if queries is None:
            qkv_bias = torch.cat([self.q_bias, no_bias, self.v_bias])
            projected = [recomputing_linear(x, self.qkv.weight, qkv_bias, norm)]
        else:
            dim = x.shape[2]
            q_weight, kv_weight = self.qkv.weight.split([dim, 2 * dim])
            kv_bias = torch.cat([no_bias, self.v_bias])
            projected = [
                recomputing_linear(take(x, queries), q_weight, self.q_bias, norm),
                recomputing_linear(x, kv_weight, kv_bias, norm),
            ]
        bias, index = self._bias(grid, shared_bias)
        if bias is None:
            q, k, v = split_heads(projected, self.num_heads)
            x = F.scaled_dot_product_attention(q, k, v)  # [B, heads, M, d]
            x = x.transpose(1, 2).flatten(2)  # [B, M, D]
        else:
            x = biased_attention(projected, self.num_heads, bias, queries, index)
        return recomputing_linear(x, self.proj.weight, self.proj.bias, scale=scale)


def find(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find the indices of the marked tokens in every image.

    Args:
        mask (Tensor): [B, N] bool, True = marked.

    Returns:
        tuple[Tensor, Tensor]: Two tensors [B, M], where M is the largest number of
        marked tokens in an image.

        - The indices (int64) of the marked tokens, in ascending order. An image with
          fewer than M marked tokens is padded with indices of unmarked tokens.
        - A bool tensor that is False at this padding.
    """
    most = max(mask.sum(1).tolist(), default=0)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, mask.gather(1, index)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Select tokens of every image by their indices.

    Args:
        x (Tensor): Tokens [B, N, D].
        index (Tensor): Indices [B, M] into the N tokens.

    Returns:
        Tensor: The selected tokens [B, M, D].
    """
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
