"""A Transformer block of the BEiT family."""

from collections.abc import Callable, Iterable, Iterator

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .attention import Attention, take
from .memory_saving import recomputing_linear


class Block(nn.Module):
    """Transformer block with layer scale and drop path.

    For tokens x it computes ``y = x + drop(gamma_1 * attn(norm1(x)))`` and returns
    ``y + drop(gamma_2 * mlp(norm2(y)))``, as BEiT does (arXiv 2106.08254).

    Args:
        dim (int): Width D of the tokens.
        num_heads (int): Number of attention heads. Must divide ``dim``.
        mlp_dim (int): Hidden width of the MLP.
        drop_path (float): Probability, per sample, that a residual branch is
            skipped during training. A skipped branch is not computed. Defaults to 0.
        layer_scale_init_value (float): Initial value of the learned scales
            ``gamma_1`` and ``gamma_2``, [D] each; 0 means no layer scale. Defaults
            to 0.1.
        window (tuple[int, int], optional): Patch grid (h, w) that the block's own
            relative position table is made for. Defaults to None, no table.

    Raises:
        ValueError: If ``num_heads`` does not divide ``dim``.
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
        # torch.compile would build a Python number into the compiled graph, whereas a
        # tensor is an input of it. Blocks that differ only in their drop path can
        # therefore share one graph.
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
        """Transform all tokens, or only some of them.

        Args:
            x (Tensor): Tokens [B, 1+N, D], the class token first.
            grid (tuple[int, int]): Patch grid (h, w), N = h*w.
            shared_bias (Tensor, optional): Bias of the attention logits that all
                blocks share, [heads, 1+N, 1+N].
            queries (Tensor, optional): Indices [B, M] of the tokens to compute. The
                other tokens only serve as keys and values. Defaults to None, all
                tokens.

        Returns:
            Tensor: [B, 1+N, D], or [B, M, D] with ``queries``.
        """
        y = x if queries is None else take(x, queries)
        y = self._residual(
            y,
            lambda kept: self.attn(
                _samples(x, kept),
                grid,
                shared_bias,
                _samples(queries, kept),
                self.norm1,
                self.gamma_1,
            ),
            (self.norm1, self.attn, self.gamma_1, shared_bias),
        )
        return self._residual(
            y,
            lambda kept: self._mlp(_samples(y, kept)),
            (self.norm2, self.mlp, self.gamma_2),
        )

    def _mlp(self, x: Tensor) -> Tensor:
        fc1, fc2 = self.mlp.fc1, self.mlp.fc2
        x = recomputing_linear(x, fc1.weight, fc1.bias, self.norm2)
        return recomputing_linear(
            x, fc2.weight, fc2.bias, gelu=True, scale=self.gamma_2
        )

    def _residual(
        self,
        x: Tensor,
        branch: Callable,
        learned: Iterable[nn.Module | Tensor | None],
    ) -> Tensor:
        """``x + drop(branch)``, computed only for the samples that keep the branch.

        Args:
            x (Tensor): Tokens [B, M, D].
            branch (Callable): Takes the indices [K] of the samples that keep the
                branch, or None for all of them, and returns [K, M, D].
            learned (Iterable[nn.Module | Tensor | None]): The modules and tensors
                that ``branch`` sends gradients to.
        """
        kept = None
        if self.training and self.drops:
            draws = torch.rand(len(x), device=x.device)
            if torch.compiler.is_compiling():
                # The shapes of a compiled graph are fixed, so all samples are
                # computed and some are multiplied by zero.
                factor = (draws < self.keep) / self.keep
                return x + branch(None) * factor.to(x.dtype).view(-1, 1, 1)
            kept = (draws < 1 - self.drop_path).nonzero()[:, 0]
        if not x.numel() or (kept is not None and not len(kept)):
            # Some attention kernels refuse an empty batch.
            return with_zero_gradients(x, _tensors(learned))
        if kept is None:
            return x + branch(None)
        scale = 1 / (1 - self.drop_path)
        return x.index_add(0, kept, branch(kept).to(x.dtype), alpha=scale)


def with_zero_gradients(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return ``x``; the backward pass also gives ``parameters`` gradients of zero.

    DistributedDataParallel waits for the gradient of every parameter, so parameters
    that an iteration does not use must stay part of its graph.

    Args:
        x (Tensor): Any tensor.
        parameters (Iterable[Tensor]): Tensors of any shape. Those that need no
            gradient are skipped.

    Returns:
        Tensor: A view of ``x``.
    """
    return _WithZeroGradients.apply(x, *(p for p in parameters if p.requires_grad))


class _WithZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(p) for p in ctx.saved_tensors)


def _tensors(learned: Iterable[nn.Module | Tensor | None]) -> Iterator[Tensor]:
    """The parameters of all modules, and the tensors themselves."""
    for item in learned:
        if isinstance(item, nn.Module):
            yield from item.parameters()
        elif item is not None:
            yield item


def _samples(x: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """The samples of a batch with the indices ``kept``, all of them for None."""
    return x if x is None or kept is None else x[kept]
