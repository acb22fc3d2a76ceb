"""Ways to train attention whose logits have a learnable bias, and which one is taken.

All ways compute the same values and gradients. They differ in time and memory, which
depend on the device, the dtype, the number of tokens and on ``torch.compile``:

- ``recompute``: the backward pass computes the attention weights again, a few samples
  and heads at a time, see :func:`~.memory_saving.biased_attention`. It runs on every
  device and is the only way on the CPU.
- ``gather``: as ``recompute``; in addition, the gradients of a bias that all blocks
  share are added up in one tensor instead of one tensor for each block. It runs on
  every device, but not in compiled blocks.
- ``efficient``: torch's memory-efficient CUDA kernel, which differentiates the bias.
  The gradient of the bias is computed for every sample, [B, heads, M, N], before it is
  summed. On the CPU, torch computes the same without this kernel, and keeps the
  attention weights of all samples for backward.
- ``flex``: torch's FlexAttention, compiled, which looks the bias up inside its kernel.
  It sums the gradient of the bias by atomic additions, so that two runs may differ in
  the last bits. It cannot be trained on the CPU.

``efficient`` and ``flex`` have not been run on a GPU yet, so :data:`RULES` has no rule.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .memory_saving import (
    _rows,
    biased_attention,
    keeps_for_backward,
    split_heads,
)
from .relative_position import look_up

WAYS = ('recompute', 'gather', 'efficient', 'flex')
ONLY_ON_CUDA = ('efficient', 'flex')


class Rule(NamedTuple):
    """Where a way of computing attention is the default.

    Attributes:
        way (str): One of :data:`WAYS`.
        dtypes (tuple[torch.dtype, ...]): Dtypes of queries, keys and values.
        compiled (bool | None): Whether the rule is for compiled blocks or for others;
            None for both.
        tokens (tuple[int, float]): Least and largest number of tokens of an image.
    """

    way: str
    dtypes: tuple[torch.dtype, ...]
    compiled: bool | None = None
    tokens: tuple[int, float] = (1, float('inf'))


# Rules for CUDA devices, of which the first that applies counts. Where none applies,
# the way is `recompute`. A rule needs a measurement.
RULES: tuple[Rule, ...] = ()


def choose_way(
    device: torch.device, dtype: torch.dtype, tokens: int, compiled: bool = False
) -> str:
    """Choose how attention with a learnable bias is computed in training.

    Args:
        device (torch.device): Device of the tokens.
        dtype (torch.dtype): Dtype of queries, keys and values.
        tokens (int): Number of tokens of an image, with the class token.
        compiled (bool): Whether the block is compiled. Defaults to False.

    Returns:
        str: One of :data:`WAYS`.
    """
    if device.type == 'cuda':
        for rule in RULES:
            least, largest = rule.tokens
            if (
                dtype in rule.dtypes
                and rule.compiled in (None, compiled)
                and least <= tokens <= largest
            ):
                return rule.way
    return 'recompute'


def trained_attention(
    projected: Sequence[Tensor],
    num_heads: int,
    bias: Tensor,
    queries: Tensor | None = None,
    index: Tensor | None = None,
    way: str = 'auto',
) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(d) + bias) v`` with a learnable bias.

    Args:
        projected (Sequence[Tensor]): See :func:`~.memory_saving.biased_attention`, as
            for all arguments but the last.
        num_heads (int): Number of heads.
        bias (Tensor): Bias of the logits, [heads, N, N], or a table [rows, heads].
        queries (Tensor, optional): Indices [B, M] of the tokens that the queries are.
        index (Tensor, optional): Row of the table for every pair (query, key), [N, N].
        way (str): One of :data:`WAYS`, or ``'auto'``: :func:`choose_way` decides. It
            makes no difference where the bias needs no gradient. On other devices than
            CUDA the two ways that need it are replaced by ``'recompute'``. Defaults to
            ``'auto'``.

    Returns:
        Tensor: [B, M, D], the outputs of all heads side by side.
    """
    # The gradient of a bias decides which kernels can serve.
    if keeps_for_backward() and bias.requires_grad:
        if way == 'auto':
            keys = projected[-1]
            compiled = torch.compiler.is_compiling()
            way = choose_way(keys.device, keys.dtype, keys.shape[1], compiled)
        if way in _KERNELS and projected[-1].is_cuda:
            return _KERNELS[way](projected, num_heads, bias, queries, index)
    return biased_attention(projected, num_heads, bias, queries, index)


def efficient_attention(
    projected: Sequence[Tensor],
    num_heads: int,
    bias: Tensor,
    queries: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """Compute :func:`trained_attention` by the memory-efficient kernel of CUDA.

    Args:
        projected (Sequence[Tensor]): See :func:`trained_attention`.
        num_heads (int): See :func:`trained_attention`.
        bias (Tensor): See :func:`trained_attention`.
        queries (Tensor | None): See :func:`trained_attention`.
        index (Tensor | None): See :func:`trained_attention`.

    Returns:
        Tensor: [B, M, D].
    """
    q, k, v = split_heads(projected, num_heads)
    if index is not None:
        bias = look_up(bias, index)
    mask = aligned(_rows(bias, queries).to(q.dtype))
    # On CUDA, torch's plain attention would be a silent waste of memory.
    kernel = SDPBackend.EFFICIENT_ATTENTION if q.is_cuda else SDPBackend.MATH
    with sdpa_kernel(kernel):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask if mask.ndim == 4 else mask[None]
        )
    return out.transpose(1, 2).flatten(2)


def aligned(bias: Tensor, multiple: int = 8) -> Tensor:
    """Copy a bias so that each of its rows begins at a multiple of some elements.

    The memory-efficient kernel needs such a bias, and would otherwise copy it itself,
    also again for the backward pass.

    Args:
        bias (Tensor): [..., N].
        multiple (int): The number of elements. Defaults to 8.

    Returns:
        Tensor: [..., N], a slice of a tensor with longer rows, or ``bias`` itself if
        N is such a multiple already.
    """
    tokens = bias.shape[-1]
    missing = -tokens % multiple
    return F.pad(bias, (0, missing))[..., :tokens] if missing else bias


def flexible_attention(
    projected: Sequence[Tensor],
    num_heads: int,
    bias: Tensor,
    queries: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """Compute :func:`trained_attention` by FlexAttention.

    Args:
        projected (Sequence[Tensor]): See :func:`trained_attention`.
        num_heads (int): See :func:`trained_attention`.
        bias (Tensor): See :func:`trained_attention`.
        queries (Tensor | None): See :func:`trained_attention`.
        index (Tensor | None): See :func:`trained_attention`.

    Returns:
        Tensor: [B, M, D].
    """

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row = i if queries is None else queries[b, i]
        return score + (bias[h, row, j] if index is None else bias[index[row, j], h])

    q, k, v = split_heads(projected, num_heads)
    attend = _flex_attention(torch.compiler.is_compiling())
    out = attend(q, k, v, score_mod=biased)
    return out.transpose(1, 2).flatten(2)


def _flex_attention(compiled: bool) -> Callable:
    """Return FlexAttention, compiled by itself unless a compiled block calls it."""
    from torch.nn.attention.flex_attention import flex_attention  # a slow import

    return flex_attention if compiled else _compiled(flex_attention)


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)


# The other ways are those of `biased_attention`.
_KERNELS = dict(efficient=efficient_attention, flex=flexible_attention)
