"""Matrix products of linear layers, by the faster library for the processor."""

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import mm_flop, register_flop_formula

# The operator that torch.compile itself calls for a linear layer on CPU. It cannot be
# differentiated.
_ONEDNN = getattr(torch.ops.mkldnn, '_linear_pointwise', None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x weight^T + bias`` where the result needs no gradient.

    On CPU, ``F.linear`` calls MKL for float32. On an AMD EPYC, MKL was 5 to 10 %
    slower than oneDNN for every shape of a ViT, so this function calls oneDNN on AMD
    processors. On an Intel Xeon, MKL was as fast as oneDNN or faster (twice as fast
    for some gradients), so ``F.linear`` is called there and everywhere else.

    Args:
        x (Tensor): Inputs [..., C].
        weight (Tensor): Weight [D, C], contiguous or the transpose of a contiguous
            tensor.
        bias (Tensor, optional): Bias [D]. Defaults to None, no bias.

    Returns:
        Tensor: [..., D]. It carries no gradient if oneDNN computed it.
    """
    if takes_onednn(x, weight):
        return _ONEDNN(x.detach(), weight.detach(), bias, 'none', [], '')
    return F.linear(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute the gradient ``grad^T x`` of a linear layer's weight.

    On AMD processors, oneDNN was faster than MKL (by 7 to 11 %) only for C > D, so
    only this case goes through :func:`linear`.

    Args:
        grad (Tensor): Gradient of the layer's output, [T, D] for T tokens.
        x (Tensor): The layer's input, [T, C].

    Returns:
        Tensor: [D, C].
    """
    if x.shape[1] > grad.shape[1]:
        return linear(grad.t(), x.t())
    return grad.t() @ x


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether :func:`linear` calls oneDNN for ``x weight^T``.

    It does so for float32 tensors on an AMD processor, outside autocast, tracing and
    torch.compile, if torch is built with oneDNN and oneDNN is enabled.

    Args:
        x (Tensor): Inputs [..., C].
        weight (Tensor): Weight [D, C].
    """
    return (
        _ONEDNN is not None
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and on_amd()
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0  # oneDNN refuses empty tensors
        and not torch.is_autocast_enabled('cpu')
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


@cache
def on_amd() -> bool:
    """Return whether the processor is made by AMD."""
    info = Path('/proc/cpuinfo')
    name = info.read_text() if info.is_file() else platform.processor()
    return 'AuthenticAMD' in name


if _ONEDNN is not None:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _linear_flops(
        x_shape: torch.Size,
        weight_shape: torch.Size,
        *args,
        out_shape: torch.Size | None = None,
        **kwargs,
    ) -> int:
        rows = x_shape[:-1].numel()
        return mm_flop((rows, x_shape[-1]), weight_shape[::-1])
