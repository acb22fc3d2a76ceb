"""Attention and linear layers that keep fewer activations for backward.

The plain layers of a ViT block keep the input of every operation for backward. Most
of these inputs cost little to compute again: the output of a LayerNorm or a GELU, the
attention weights, the bias that is looked up in a relative position table. The
functions here compute them again in the backward pass. The output that layer scale
multiplies is not needed at all. Values and gradients are those of the plain layers.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from .linear import linear, weight_gradient
from .relative_position import look_up

# How many attention weights the backward pass computes at a time: they fit a CPU's
# cache, or take a small part of a GPU's memory.
CPU_PART, GPU_PART = 2**19, 2**28


def biased_attention(
    projected: Sequence[Tensor],
    num_heads: int,
    bias: Tensor,
    queries: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(d) + bias) v`` with a learnable bias.

    torch's fused attention kernels cannot differentiate a bias on CPU, and on CUDA they
    need a copy of it for every sample. torch's plain attention keeps the attention
    matrices of all blocks for backward. Here the backward pass computes these matrices
    again, for a few samples and heads at a time. Where no gradient is asked for, and
    while the model is traced or exported, plain operators compute the same.

    Args:
        projected (Sequence[Tensor]): The queries, keys and values of all heads, in this
            order along the last dimension of one tensor [B, N, 3D] or of several
            tensors, such as queries [B, M, D] and keys with values [B, N, 2D].
        num_heads (int): Number of heads, of d = D / num_heads channels each.
        bias (Tensor): Bias of the logits, [heads, N, N], the same for every sample.
            With ``index`` it is a relative position table [rows, heads], which is kept
            for backward in place of the larger bias.
        queries (Tensor, optional): Which of the N tokens each query is, indices
            [B, M]. They select the rows of the bias. Defaults to None: the queries are
            all tokens in order, M = N.
        index (Tensor, optional): Row of the table for every pair (query, key), int64
            [N, N]. Defaults to None: ``bias`` is not a table.

    Returns:
        Tensor: [B, M, D], the outputs of all heads side by side.
    """
    if keeps_for_backward():
        return _BiasedAttention.apply(num_heads, bias, queries, index, *projected)
    if not is_recorded():
        bias = bias.detach()
    return _attend(num_heads, bias, queries, index, projected)


def keeps_for_backward() -> bool:
    """Tell whether the functions of this file prepare a backward pass of their own.

    Only then do they need autograd functions, which no tracer or exporter understands.

    Returns:
        bool: False where gradients are disabled, under ``torch.jit.trace``, and under
        ``torch.export`` and the ONNX exporters.
    """
    return torch.is_grad_enabled() and not is_recorded()


def is_recorded() -> bool:
    """Tell whether ``torch.jit.trace`` or an exporter records the operators."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def split_heads(projected: Sequence[Tensor], num_heads: int) -> list[Tensor]:
    """Split projected tokens into the heads of q, k and v, as views.

    Args:
        projected (Sequence[Tensor]): See :func:`biased_attention`.
        num_heads (int): Number of heads.

    Returns:
        list[Tensor]: q [B, heads, M, d], k and v [B, heads, N, d].
    """
    width = sum(t.shape[2] for t in projected) // 3
    return [
        part.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for t in projected
        for part in t.split(width, 2)
    ]


def join_heads(x: Tensor) -> Tensor:
    """Put the outputs of all heads side by side.

    Args:
        x (Tensor): Outputs of attention, [B, heads, M, d].

    Returns:
        Tensor: [B, M, D].
    """
    x = x.transpose(1, 2)
    if torch.compiler.is_exporting():
        # The ONNX exporter replaces attention by operators whose result lies in memory
        # in another order, of which it cannot make a view.
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


def _rows(bias: Tensor, queries: Tensor | None) -> Tensor:
    """Select the rows of a bias that belong to the queries.

    Args:
        bias (Tensor): [heads, N, N].
        queries (Tensor | None): Indices [..., M], None for all tokens in order.

    Returns:
        Tensor: [..., heads, M, N], or ``bias`` itself for all tokens.
    """
    return bias if queries is None else bias[:, queries].movedim(0, -3)


def _attend(
    num_heads: int,
    bias: Tensor,
    queries: Tensor | None,
    index: Tensor | None,
    projected: Sequence[Tensor],
) -> Tensor:
    """Compute the result of :func:`biased_attention` by torch's fused kernels.

    They only accept a bias that is detached and has four dimensions.
    """
    q, k, v = split_heads(projected, num_heads)
    if index is not None:
        bias = look_up(bias, index)
    mask = _rows(bias, queries).to(q.dtype)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask if mask.ndim == 4 else mask[None]
    )
    return join_heads(out)


class _BiasedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        num_heads: int,
        bias: Tensor,
        queries: Tensor | None,
        index: Tensor | None,
        *projected,
    ) -> Tensor:
        ctx.save_for_backward(bias, queries, index, *projected)
        ctx.num_heads = num_heads
        ctx.gather = None if torch.compiler.is_compiling() else _gather_node(bias)
        return _attend(num_heads, bias.detach(), queries, index, projected)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        bias, queries, index, *projected = ctx.saved_tensors
        if index is not None:
            table, bias = bias, look_up(bias, index)
        q, k, v = split_heads(projected, ctx.num_heads)
        grad = grad.unflatten(2, (ctx.num_heads, -1)).transpose(1, 2)
        d_projected = [torch.empty_like(t) for t in projected]
        dq, dk, dv = split_heads(d_projected, ctx.num_heads)
        gathers = ctx.gather is not None and ctx.needs_input_grad[1]
        d_bias = _total(ctx.gather, bias) if gathers else torch.zeros_like(bias)
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
            d_bias = None if gathers else d_bias
            return None, d_bias, None, None, *d_projected
        d_table = torch.zeros_like(table.t()).index_add_(
            1, index.flatten(), d_bias.flatten(1)
        )
        return None, d_table.t(), None, None, *d_projected


def gather_gradients(bias: Tensor) -> Tensor:
    """Let :func:`biased_attention` add the gradients of a shared bias in one tensor.

    Every call of it that gets the result as its bias then adds to the same tensor in
    its backward pass, in place of returning a gradient [heads, N, N] of its own.

    Args:
        bias (Tensor): Bias [heads, N, N] that all blocks share.

    Returns:
        Tensor: The same bias.
    """
    return _GatherGradients.apply(bias)


class _GatherGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, bias: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.total, ctx.backward_pass = None, None
        return bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor | None) -> Tensor | None:
        total, ctx.total = ctx.total, None
        if total is None or ctx.backward_pass != torch._C._current_graph_task_id():
            return grad
        # Calls that do not add to the total have sent a gradient.
        return total if grad is None else total.add_(grad)


def _gather_node(bias: Tensor) -> FunctionCtx | None:
    """Return the object that collects a bias's gradients, if there is one."""
    # The graph's node of a bias is what torch passes as `ctx` to its functions.
    node = bias.grad_fn
    return node if isinstance(node, _GatherGradients._backward_cls) else None


def _total(node: FunctionCtx, bias: Tensor) -> Tensor:
    """Return the tensor that collects a bias's gradients in this backward pass."""
    this = torch._C._current_graph_task_id()
    # A backward pass that does not lead to the bias leaves its total behind.
    if node.total is None or node.backward_pass != this:
        node.total, node.backward_pass = torch.zeros_like(bias), this
    return node.total


def _parts(q: Tensor, k: Tensor) -> Iterator[tuple]:
    """Yield the samples and heads whose attention weights are computed together.

    Each item is a pair of indices into the first two dimensions of q and k: slices, or
    the number of one sample and a slice of its heads.
    """
    if torch.compiler.is_compiling():
        # torch.compile would unroll a loop over several parts into one graph.
        yield slice(None), slice(None)
        return
    samples, heads, queries, _ = q.shape
    most = (CPU_PART if q.is_cpu else GPU_PART) // max(1, queries * k.shape[2])
    if most >= 2 * heads:
        step = most // heads
        for i in range(0, samples, step):
            yield slice(i, i + step), slice(None)
    else:
        # One sample at a time: without a batch dimension, its products need fewer
        # copies.
        step = min(max(1, most), heads)
        for i in range(samples):
            for j in range(0, heads, step):
                yield i, slice(j, j + step)


def _differentiate(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and of the logits [..., heads, M, N].

    ``grad`` [..., heads, M, d] is the gradient of the attention's output.
    """
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
    """Compute ``scale * (f(x) weight^T + bias)``, keeping only ``x`` for backward.

    f is a LayerNorm, a GELU or the identity. Apart from ``x``, backward only needs the
    parameters. Dtypes under autocast are those of the plain layers: the product is
    computed in autocast's dtype, and multiplying by ``scale`` promotes it to the dtype
    of ``scale``. Where no gradient is asked for, and while the model is traced or
    exported, plain operators compute the same.

    Args:
        x (Tensor): Inputs [..., C].
        weight (Tensor): Weight [D, C].
        bias (Tensor, optional): Bias [D]. Defaults to None, no bias.
        norm (nn.LayerNorm, optional): Normalization that is applied to ``x`` first.
            Defaults to None, no normalization.
        gelu (bool): Whether a GELU is applied to ``x`` first. It has no effect together
            with ``norm``. Defaults to False.
        scale (Tensor, optional): Layer scale [D]. Defaults to None, no scale.

    Returns:
        Tensor: [..., D].
    """
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    norm_weight, norm_bias, eps = None, None, None
    if norm is not None:
        norm_weight, norm_bias, eps = norm.weight, norm.bias, norm.eps
        if norm_weight is not None:
            x = x.to(norm_weight.dtype)
    arguments = x, weight, bias, scale, norm_weight, norm_bias, eps, gelu, dtype
    keeps = keeps_for_backward()
    if not keeps and not autocast:
        return _scaled_linear(*arguments)
    with torch.autocast(device, enabled=False):
        return (_RecomputingLinear.apply if keeps else _scaled_linear)(*arguments)


def _scaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float | None,
    gelu: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the result of :func:`recomputing_linear`, with the product in ``dtype``.

    The LayerNorm's ``eps`` is None if there is no LayerNorm.
    """
    hidden = _prologue(x, norm_weight, norm_bias, eps, gelu)[0].to(dtype)
    out = linear(hidden, weight.to(dtype), None if bias is None else bias.to(dtype))
    if scale is None:
        return out
    return out.mul_(scale) if out.dtype == scale.dtype else out * scale


class _RecomputingLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float | None,
        gelu: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, scale, norm_weight, norm_bias)
        ctx.eps, ctx.gelu, ctx.dtype = eps, gelu, dtype
        return _scaled_linear(
            x, weight, bias, scale, norm_weight, norm_bias, eps, gelu, dtype
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        x, weight, bias, scale, norm_weight, norm_bias = ctx.saved_tensors
        needs, dtype = ctx.needs_input_grad, ctx.dtype
        hidden, mean, rstd = _prologue(x, norm_weight, norm_bias, ctx.eps, ctx.gelu)
        d_weight = d_bias = d_scale = None
        if any(needs[1:4]):  # A frozen layer needs none of these gradients.
            rows, unit = grad.flatten(0, -2), 1.0
            if scale is not None and dtype == torch.float16:
                # The plain layers multiply the gradient by the layer scale before they
                # convert it to float16. Multiplying by the largest scale makes sure
                # that it overflows no earlier here.
                unit = scale.abs().amax().clamp(min=1e-12)
                rows = rows * unit
            d_weight = weight_gradient(
                rows.to(dtype), hidden.to(dtype).flatten(0, -2)
            ).to(weight.dtype)  # [D, C]
            if bias is not None:
                d_bias = rows.sum(0, dtype=bias.dtype)
            if scale is not None:
                # The gradient of the scale, sum(grad * (f(x) weight^T + bias)), follows
                # from those of weight and bias, so the layer's output is not needed.
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


def _prologue(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float | None,
    gelu: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return f(x), and the mean and reciprocal standard deviation for a LayerNorm.

    The mean and the deviation are None if f is no LayerNorm, that is if ``eps`` is
    None.
    """
    if eps is not None:
        return torch.native_layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    return (F.gelu(x) if gelu else x), None, None
