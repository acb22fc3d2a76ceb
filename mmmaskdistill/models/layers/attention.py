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

    Queries and values have a bias, keys have none (a bias of the keys would
    cancel in the softmax). A learned relative position bias, one table of this
    block's own or one shared by all blocks, is added to the logits.

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Heads; must divide ``dim``.
        window (tuple[int, int], optional): Patch grid of this block's own
            relative position table. Defaults to None, no table.
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
        """Bias and index of :func:`biased_attention`."""
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
        """``scale * attention(norm(x))``, from all tokens, or some, to all.

        Args:
            x (Tensor): Tokens [B, 1+N, D], the class token first.
            grid (tuple[int, int]): Patch grid (h, w), N = h*w.
            shared_bias (Tensor, optional): [heads, 1+N, 1+N].
            queries (Tensor, optional): Indices [B, M] of the tokens that
                attend. Defaults to None, all of them.
            norm (nn.LayerNorm, optional): Normalizes the tokens first.
            scale (Tensor, optional): [D], layer scale.

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
            x = F.scaled_dot_product_attention(q, k, v)
            x = x.transpose(1, 2).flatten(2)
        else:
            x = biased_attention(projected, self.num_heads, bias, queries, index)
        return recomputing_linear(x, self.proj.weight, self.proj.bias, scale=scale)


def find(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens of a mask are, image by image.

    Args:
        mask (Tensor): [B, N] bool.

    Returns:
        tuple[Tensor, Tensor]: Their indices [B, M] in rising order, M the most
        in an image, those of other images padded with any; and which indices
        are no padding, [B, M] bool.
    """
    most = max(mask.sum(1).tolist(), default=0)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, mask.gather(1, index)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, M, D] of ``x`` [B, N, D] at ``index`` [B, M]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
