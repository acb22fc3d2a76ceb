"""A Transformer block of the BEiT family."""

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from .attention import Attention
from .drop_path import Draw, residual
from .fused_branches import (
    can_fuse_attention,
    can_fuse_mlp,
    fused_attention,
    fused_mlp,
)
from .tokens import take


class Block(nn.Module):
    """Transformer block with layer scale and drop path.

    For tokens x it computes ``y = x + drop(gamma_1 * attn(norm1(x)))`` and returns
    ``y + drop(gamma_2 * mlp(norm2(y)))``, as BEiT does (arXiv 2106.08254).

    While the modules of a branch are those that it was built with, the branch is
    computed from their weights by functions that keep less for backward and return the
    same values and gradients. As soon as one of the modules has a hook, or is replaced
    by a module of another class (such as a LoRA layer or another norm), the branch
    calls its modules one by one. Their hooks then fire once per forward pass, and again
    during backward if the block is checkpointed (``with_cp``). Hooks that torch
    registers for all modules at once do not have this effect.

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Number of attention heads. Must divide ``dim``.
        mlp_dim (int): Hidden width of the MLP.
        layer_scale_init_value (float): Initial value of the learned scales
            ``gamma_1`` and ``gamma_2``, [D] each; 0 means no layer scale. Defaults
            to 0.1.
        table_grid (tuple[int, int], optional): Patch grid (h, w) that the block's own
            relative position table is made for. Defaults to None, no table.
        attention (str): How attention with a relative position bias is computed in
            training, see :func:`.trained_attention`. Defaults to ``'auto'``.

    Raises:
        ValueError: If ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        layer_scale_init_value: float = 0.1,
        table_grid: tuple[int, int] | None = None,
        attention: str = 'auto',
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, table_grid, attention)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_dim)
        if layer_scale_init_value:
            start = torch.full((dim,), float(layer_scale_init_value))
            self.gamma_1 = nn.Parameter(start.clone())
            self.gamma_2 = nn.Parameter(start)
        else:
            self.gamma_1 = self.gamma_2 = None

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int],
        shared_bias: Tensor | None = None,
        queries: Tensor | None = None,
        draws: tuple[Draw | None, Draw | None] = (None, None),
    ) -> Tensor:
        """Transform all tokens, or only some of them.

        Args:
            x (Tensor): Tokens [B, 1+N, D], the class token first.
            grid (tuple[int, int]): Patch grid (h, w), N = h*w.
            shared_bias (Tensor, optional): Bias of the attention logits that all
                blocks share, [heads, 1+N, 1+N].
            queries (Tensor, optional): Indices [B, M] of the tokens to compute. The
                other tokens only serve as keys and values. Defaults to None, all
                tokens.
            draws (tuple[Draw | None, Draw | None]): Which samples keep the attention
                branch and which keep the MLP branch, drop path's draws. None means all
                samples, the default.

        Returns:
            Tensor: [B, 1+N, D], or [B, M, D] with ``queries``.
        """
        y = x if queries is None else take(x, queries)
        y = residual(
            y,
            lambda kept: self._attention_branch(
                _samples(x, kept), grid, shared_bias, _samples(queries, kept)
            ),
            (self.norm1, self.attn, self.gamma_1, shared_bias),
            draws[0],
        )
        return residual(
            y,
            lambda kept: self._mlp_branch(_samples(y, kept)),
            (self.norm2, self.mlp, self.gamma_2),
            draws[1],
        )

    def _attention_branch(
        self,
        x: Tensor,
        grid: tuple[int, int],
        shared_bias: Tensor | None,
        queries: Tensor | None,
    ) -> Tensor:
        """Compute ``gamma_1 * attn(norm1(x))``."""
        if can_fuse_attention(self.norm1, self.attn):
            return fused_attention(
                self.norm1, self.attn, self.gamma_1, x, grid, shared_bias, queries
            )
        out = self.attn(self.norm1(x), grid, shared_bias, queries)
        return out if self.gamma_1 is None else self.gamma_1 * out

    def _mlp_branch(self, x: Tensor) -> Tensor:
        """Compute ``gamma_2 * mlp(norm2(x))``."""
        if can_fuse_mlp(self.norm2, self.mlp):
            return fused_mlp(self.norm2, self.mlp, self.gamma_2, x)
        out = self.mlp(self.norm2(x))
        return out if self.gamma_2 is None else self.gamma_2 * out


def _samples(x: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """The samples of a batch with the indices ``kept``, all of them for None."""
    return x if x is None or kept is None else x[kept]
