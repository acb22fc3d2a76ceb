"""Attention and linear layers that keep less for backward.

Between a block's input and output, a ViT keeps for backward what goes into
every layer. Most of that costs little to compute again: a norm, a GELU, the
attention weights, the bias of a table; and what layer scale multiplies is not
needed at all.
Values and gradients are those of the plain layers.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .linear import linear, weight_gradient
from .relative_position import look_up


def biased_attention(
    projected: Sequence[Tensor],
    num_heads: int,
    bias: Tensor,
    queries: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v``, the bias learnable.

    torch's fused kernels do not differentiate a bias on CPU, and on CUDA only
    by a copy a sample; its plain one keeps the attention matrices of all
    blocks for backward. Here backward computes them again, chunk by chunk.

    Args:
        projected (Sequence[Tensor]): Queries, keys and values of all heads,
            side by side in one tensor [B, N, 3D] or in several, such as
            [B, M, D] and [B, N, 2D].
        num_heads (int): Heads, of d = D / heads channels.
        bias (Tensor): [heads, N, N], the same for every sample; with ``index``
            a table [rows, heads], kept for backward in place of the bias.
        queries (Tensor, optional): Rows [B, M] of the bias, which token each
            query is. Defaults to None, all in order, M = N.
        index (Tensor, optional): Row of the table for every pair (query, key),
            [N, N]. Defaults to None, ``bias`` is no table.

    Returns:
        Tensor: [B, M, D].
    """
    return _BiasedAttention.apply(num_heads, bias, queries, index, *projected)


def split_heads(projected: Sequence[Tensor], num_heads: int) -> list[Tensor]:
    """q, k and v, [B, heads, N, d] each, as views."""
    width = sum(t.shape[2] for t in projected) // 3
    return [
        part.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for t in projected
        for part in t.split(width, 2)
    ]


def _rows(bias: Tensor, queries: Tensor | None) -> Tensor:
    """[heads, N, N], or [..., heads, M, N] of the queries [..., M] at hand."""
    return bias if queries is None else bias[:, queries].movedim(0, -3)


class _BiasedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, num_heads, bias, queries, index, *projected):
        ctx.save_for_backward(bias, queries, index, *projected)
        ctx.num_heads = num_heads
        q, k, v = split_heads(projected, num_heads)
        # Detached and with four dimensions, the fused kernels take it.
        bias = bias.detach()
        if index is not None:
            bias = look_up(bias, index)
        mask = _rows(bias, queries).to(q.dtype)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask if mask.ndim == 4 else mask[None]
        )
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        bias, queries, index, *projected = ctx.saved_tensors
        if index is not None:
            table, bias = bias, look_up(bias, index)
        q, k, v = split_heads(projected, ctx.num_heads)
        grad = grad.unflatten(2, (ctx.num_heads, -1)).transpose(1, 2)
        d_projected = [torch.empty_like(t) for t in projected]
        dq, dk, dv = split_heads(d_projected, ctx.num_heads)
        d_bias = torch.zeros_like(bias)
        for samples, heads in _parts(q, k):
            part = samples, heads
            rows = None if queries is None else queries[samples]
            dq[part], dk[part], dv[part], d_logits = _differentiate(
                q[part], k[part], v[part], _rows(bias[heads], rows), grad[part]
            )
            if rows is not None:
                d_bias[heads].index_add_(
                    1,
                    rows.flatten(),
                    d_logits.movedim(-3, 0).flatten(1, -2).to(bias.dtype),
                )
            elif d_logits.ndim == 4:
                d_bias[heads] += d_logits.sum(0, dtype=bias.dtype)
            else:
                d_bias[heads] += d_logits
        if index is None:
            return None, d_bias, None, None, *d_projected
        d_table = torch.zeros_like(table.t()).index_add_(
            1, index.flatten(), d_bias.flatten(1)
        )
        return None, d_table.t(), None, None, *d_projected


def _parts(q: Tensor, k: Tensor) -> Iterator[tuple]:
    """Samples and heads whose weights are computed at a time."""
    if torch.compiler.is_compiling():  # a loop would be a graph without one
        yield slice(None), slice(None)
        return
    samples, heads, queries, _ = q.shape
    # As many as fit a CPU's cache, or a small part of a GPU's memory.
    most = (2**19 if q.is_cpu else 2**28) // max(1, queries * k.shape[2])
    if most >= 2 * heads:
        step = most // heads
        for i in range(0, samples, step):
            yield slice(i, i + step), slice(None)
    else:  # without a batch dimension, fewer copies
        step = min(max(1, most), heads)
        for i in range(samples):
            for j in range(0, heads, step):
                yield i, slice(j, j + step)


def _differentiate(q, k, v, bias, grad):
    """Gradients of q, k, v and of the logits, [..., heads, M, N]."""
    scale = q.shape[-1] ** -0.5
    if q.dtype == bias.dtype and q.ndim == bias.ndim == 3:
        logits = torch.baddbmm(bias, q, k.mT, alpha=scale)
    else:
        logits = (q * scale) @ k.mT + bias
    weights = logits.softmax(-1).to(q.dtype)
    d_logits = torch._softmax_backward_data(grad @ v.mT, weights, -1, weights.dtype)
    return (d_logits @ k * scale, d_logits.mT @ q * scale, weights.mT @ grad, d_logits)


def recomputing_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    scale: Tensor | None = None,
) -> Tensor:
    """``scale * (f(x) weight^T + bias)``, f a norm, a GELU or nothing.

    Only ``x`` is kept for backward.

    Args:
        x (Tensor): [..., C].
        weight (Tensor): [D, C].
        bias (Tensor, optional): [D].
        norm (nn.LayerNorm, optional): Normalizes ``x`` first.
        gelu (bool): Whether ``x`` passes a GELU first. Defaults to False.
        scale (Tensor, optional): [D], layer scale of the output.

    Returns:
        Tensor: [..., D]. Under autocast as the plain layers: the product in
        its dtype, what is scaled in that of ``scale``.
    """
    device = x.device.type
    dtype = (
        torch.get_autocast_dtype(device)
        if torch.is_autocast_enabled(device)
        else x.dtype
    )
    norm_weight, norm_bias, eps = None, None, None
    if norm is not None:
        norm_weight, norm_bias, eps = norm.weight, norm.bias, norm.eps
        if norm_weight is not None:
            x = x.to(norm_weight.dtype)
    with torch.autocast(device, enabled=False):
        return _RecomputingLinear.apply(
            x, weight, bias, scale, norm_weight, norm_bias, eps, gelu, dtype
        )


class _RecomputingLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, scale, norm_weight, norm_bias, eps, gelu, dtype):
        ctx.save_for_backward(x, weight, bias, scale, norm_weight, norm_bias)
        ctx.eps, ctx.gelu, ctx.dtype = eps, gelu, dtype
        hidden = _prologue(x, norm_weight, norm_bias, eps, gelu)[0].to(dtype)
        out = linear(hidden, weight.to(dtype), None if bias is None else bias.to(dtype))
        if scale is None:
            return out
        return out.mul_(scale) if out.dtype == scale.dtype else out * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, bias, scale, norm_weight, norm_bias = ctx.saved_tensors
        needs, dtype = ctx.needs_input_grad, ctx.dtype
        hidden, mean, rstd = _prologue(x, norm_weight, norm_bias, ctx.eps, ctx.gelu)
        d_weight = d_bias = d_scale = None
        if any(needs[1:4]):  # not of a frozen layer
            rows, unit = grad.flatten(0, -2), 1.0
            if scale is not None and dtype == torch.float16:
                # Overflows no earlier than gradients after layer scale.
                unit = scale.abs().amax().clamp(min=1e-12)
                rows = rows * unit
            d_weight = weight_gradient(
                rows.to(dtype), hidden.to(dtype).flatten(0, -2)
            ).to(weight.dtype)  # [D, C]
            if bias is not None:
                d_bias = rows.sum(0, dtype=bias.dtype)
            if scale is not None:
                # sum(grad * (f(x) weight^T + bias)), without that output.
                d_scale = torch.linalg.vecdot(d_weight, weight)
                d_weight *= (scale / unit)[:, None]
                if bias is not None:
                    d_scale += d_bias * bias
                    d_bias *= scale / unit
                d_scale /= unit
        if scale is not None:
            grad = grad * scale
        d_hidden = linear(grad.to(dtype), weight.to(dtype).t())
        d_norm_weight = d_norm_bias = None
        if ctx.eps is not None:
            d_x, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
                d_hidden.to(x.dtype),
                x,
                x.shape[-1:],
                mean,
                rstd,
                norm_weight,
                norm_bias,
                [True, *needs[4:6]],
            )
        elif ctx.gelu:
            d_x = torch.ops.aten.gelu_backward(d_hidden, x)
        else:
            d_x = d_hidden
        return (
            d_x,
            d_weight,
            d_bias,
            d_scale,
            d_norm_weight,
            d_norm_bias,
            None,
            None,
            None,
        )


def _prologue(x, norm_weight, norm_bias, eps, gelu):
    """f(x), and the mean and reciprocal deviation if f is a norm."""
    if eps is not None:
        return torch.native_layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    return (F.gelu(x) if gelu else x), None, None
