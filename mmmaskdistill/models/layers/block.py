from collections.abc import Callable

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from .attention import Attention, take
from .memory_saving import recomputing_linear


class Block(nn.Module):
    """Transformer block with layer scale and drop path.

    ``x + drop(gamma_1 * attn(norm1(x)))``, then
    ``x + drop(gamma_2 * mlp(norm2(x)))``.

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Attention heads.
        mlp_dim (int): Hidden width of the MLP.
        drop_path (float): Probability of skipping a branch, a sample. A
            skipped branch is not computed.
        layer_scale_init_value (float): Start of the learned scales; 0 means
            no layer scale.
        window (tuple[int, int], optional): Patch grid of the block's own
            relative position table.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        drop_path: float = 0.0,
        layer_scale_init_value: float = 0.1,
        window: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_dim)
        self.drop_path = drop_path
        self.drops = drop_path > 0
        # A number would be part of a compiled graph, a tensor is its input:
        # blocks that differ in nothing else share one graph.
        self.register_buffer('keep', torch.tensor(1 - drop_path), persistent=False)
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
    ) -> Tensor:
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

        def attention(kept):
            return self.attn(
                _samples(x, kept),
                grid,
                shared_bias,
                _samples(queries, kept),
                self.norm1,
                self.gamma_1,
            )

        y = x if queries is None else take(x, queries)
        y = self._residual(y, attention)
        return self._residual(y, lambda kept: self._mlp(_samples(y, kept)))

    def _mlp(self, x: Tensor) -> Tensor:
        fc1, fc2 = self.mlp.fc1, self.mlp.fc2
        x = recomputing_linear(x, fc1.weight, fc1.bias, self.norm2)
        return recomputing_linear(
            x, fc2.weight, fc2.bias, gelu=True, scale=self.gamma_2
        )

    def _residual(self, x: Tensor, branch: Callable) -> Tensor:
        """``x + drop(branch)``, computed only for samples that keep it.

        ``branch`` takes their indices, None for all.
        """
        if not (self.training and self.drops):
            return x + branch(None)
        draws = torch.rand(len(x), device=x.device)
        if torch.compiler.is_compiling():  # a compiled graph's shapes are fixed
            kept = (draws < self.keep) / self.keep
            return x + branch(None) * kept.to(x.dtype).view(-1, 1, 1)
        keep = 1 - self.drop_path
        kept = (draws < keep).nonzero()[:, 0]
        return x.index_add(0, kept, branch(kept).to(x.dtype), alpha=1 / keep)


def _samples(x: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """Samples of a batch, all if ``kept`` is None."""
    return x if x is None or kept is None else x[kept]
