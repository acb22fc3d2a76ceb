from typing import Optional, Tuple

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from .attention import Attention, take


class Block(nn.Module):
    """Transformer block with layer scale and drop path.

    ``x + drop(gamma_1 * attn(norm1(x)))``, then
    ``x + drop(gamma_2 * mlp(norm2(x)))``.

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Attention heads.
        mlp_dim (int): Hidden width of the MLP.
        drop_path (float): Probability of skipping a branch, a sample.
        layer_scale_init_value (float): Start of the learned scales; 0 means
            no layer scale.
        window (tuple[int, int], optional): Patch grid of the block's own
            relative position table.
    """

    def __init__(self,
                 dim: int,
                 num_heads: int,
                 mlp_dim: int,
                 drop_path: float = 0.,
                 layer_scale_init_value: float = 0.1,
                 window: Optional[Tuple[int, int]] = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        if layer_scale_init_value:
            start = torch.full((dim, ), float(layer_scale_init_value))
            self.gamma_1 = nn.Parameter(start.clone())
            self.gamma_2 = nn.Parameter(start)
        else:
            self.gamma_1 = self.gamma_2 = None

    def _residual(self, x: Tensor, branch: Tensor,
                  gamma: Optional[Tensor]) -> Tensor:
        return x + self.drop_path(branch if gamma is None else gamma * branch)

    def forward(self,
                x: Tensor,
                grid: Tuple[int, int],
                shared_bias: Optional[Tensor] = None,
                queries: Optional[Tensor] = None) -> Tensor:
        """Transform all tokens, or only those that are asked for.

        Args:
            x (Tensor): Tokens [B, 1+N, D].
            grid (tuple[int, int]): Patch grid (h, w), N = h*w.
            shared_bias (Tensor, optional): [heads, 1+N, 1+N].
            queries (Tensor, optional): Indices [B, M] of the tokens to
                compute; the others serve as keys and values alone.

        Returns:
            Tensor: [B, 1+N, D], or [B, M, D] with ``queries``.
        """
        attended = self.attn(self.norm1(x), grid, shared_bias, queries)
        if queries is not None:
            x = take(x, queries)
        x = self._residual(x, attended, self.gamma_1)
        return self._residual(x, self.mlp(self.norm2(x)), self.gamma_2)
