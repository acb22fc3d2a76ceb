"""Drop path: residual branches that training skips at random (arXiv 1603.09382)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class Draw(NamedTuple):
    """Which samples of a batch keep a residual branch. Only one of the two is set.

    Attributes:
        kept (tuple[Tensor, float] | None): Indices [K] of the samples that keep the
            branch, and the number 1 / (1 - rate) that the branch is multiplied by.
        factor (Tensor | None): The factor of each sample, [B]: 0 or 1 / (1 - rate).
    """

    kept: tuple[Tensor, float] | None = None
    factor: Tensor | None = None


@torch.compiler.disable  # numpy draws, outside of any compiled graph
def draw_drop_path(
    rates: Sequence[float], samples: int, device: torch.device, factors: bool = False
) -> list[Draw | None]:
    """Draw which samples keep each of several residual branches.

    The draws come from numpy's global generator, which mmengine's Runner seeds, and are
    copied to the device together. Drawing on the device would make the host wait for it
    whenever it needs the number of samples that keep a branch.

    Args:
        rates (Sequence[float]): Probability of each branch to be skipped, 0 to below 1.
        samples (int): Size B of the batch.
        device (torch.device): Device of the draws.
        factors (bool): Whether to return factors for all samples instead of the indices
            of those that keep a branch. Compiled blocks need factors, because the
            shapes of a graph are fixed. Defaults to False.

    Returns:
        list[Draw | None]: One draw per branch. It is None if all rates are 0, and for
        indices also where the branch's own rate is 0.
    """
    if not any(rates):
        return [None] * len(rates)
    column = np.asarray(rates)[:, None]
    keep = np.random.random((len(rates), samples)) >= column
    if factors:
        values = _copy((keep / (1 - column)).tolist(), torch.float32, device)
        return [Draw(factor=row) for row in values.unbind()]
    indices = _copy(keep.nonzero()[1].tolist(), torch.int64, device)
    return [
        Draw(kept=(index, 1 / (1 - rate))) if rate else None
        for index, rate in zip(indices.split(keep.sum(1).tolist()), rates)
    ]


def residual(
    x: Tensor,
    branch: Callable[[Tensor | None], Tensor],
    learned: Iterable[nn.Module | Tensor | None],
    draw: Draw | None = None,
) -> Tensor:
    """Add a residual branch to tokens, with drop path.

    Args:
        x (Tensor): Tokens [B, M, D].
        branch (Callable): Takes the indices [K] of the samples to compute, or None for
            all of them, and returns [K, M, D].
        learned (Iterable[nn.Module | Tensor | None]): The modules and tensors that
            ``branch`` sends gradients to.
        draw (Draw, optional): Which samples keep the branch. Defaults to None, all.

    Returns:
        Tensor: [B, M, D].
    """
    if draw is not None and draw.factor is not None:
        return x + branch(None) * draw.factor.to(x.dtype).view(-1, 1, 1)
    if not x.numel() or (draw is not None and not len(draw.kept[0])):
        # Some attention kernels refuse an empty batch.
        return with_zero_gradients(x, _tensors(learned))
    if draw is None:
        return x + branch(None)
    kept, scale = draw.kept
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
    """Yield the parameters of all modules, and the tensors themselves."""
    for item in learned:
        if isinstance(item, nn.Module):
            yield from item.parameters()
        elif item is not None:
            yield item


def _copy(values: list, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy numbers to a device without making the host wait for it."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == 'cuda' and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
