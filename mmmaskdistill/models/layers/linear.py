"""Linear layers through the fastest kernel at hand."""

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import mm_flop, register_flop_formula

# What torch.compile itself calls for a linear layer on CPU. It has no gradient.
_ONEDNN = getattr(torch.ops.mkldnn, '_linear_pointwise', None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias``, a value without gradient.

    On CPU ``F.linear`` has MKL multiply float32, which on an AMD EPYC was 5
    to 10 % slower than oneDNN, for every shape of a ViT. On an Intel Xeon MKL
    was as fast or faster, for some gradients twice: it multiplies there.

    Args:
        x (Tensor): [..., C].
        weight (Tensor): [D, C], contiguous or transposed.
        bias (Tensor, optional): [D].

    Returns:
        Tensor: [..., D].
    """
    if takes_onednn(x, weight):
        return _ONEDNN(x.detach(), weight.detach(), bias, 'none', [], '')
    return F.linear(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``grad^T x``, [D, C], of ``grad`` [T, D] and ``x`` [T, C].

    On AMD, oneDNN was faster, by 7 to 11 %, where C is the greater one only.
    """
    if x.shape[1] > grad.shape[1]:
        return linear(grad.t(), x.t())
    return grad.t() @ x


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is oneDNN's: of float32 on AMD, where torch has it."""
    return (
        _ONEDNN is not None
        and not torch.compiler.is_compiling()
        and on_amd()
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0  # it refuses empty ones
        and not torch.is_autocast_enabled('cpu')
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


@cache
def on_amd() -> bool:
    """Whether the processor is one of AMD's."""
    info = Path('/proc/cpuinfo')
    name = info.read_text() if info.is_file() else platform.processor()
    return 'AuthenticAMD' in name


if _ONEDNN is not None:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _linear_flops(x_shape, weight_shape, *args, out_shape=None, **kwargs):
        rows = x_shape[:-1].numel()
        return mm_flop((rows, x_shape[-1]), weight_shape[::-1])
