"""Layers of timm that compute faster where no gradient is asked for."""

import torch
import torch.nn.functional as F
from timm.layers.activations import QuickGELU
from torch import Tensor, nn

from .linear import linear


class FrozenLinear(nn.Linear):
    """A linear layer of a frozen model, through :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return linear(x, self.weight, self.bias)


class FrozenQuickGELU(QuickGELU):
    """``x * sigmoid(1.702 x) = silu(1.702 x) / 1.702``, written over ``x``.

    timm's writes three tensors of the MLP's hidden width.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return F.silu(x.mul_(1.702), inplace=True).mul_(1 / 1.702)


_FROZEN = {cls.__base__: cls for cls in (FrozenLinear, FrozenQuickGELU)}


def freeze_layers(model: nn.Module):
    """Let the layers of a frozen model compute as those above."""
    for module in model.modules():
        module.__class__ = _FROZEN.get(type(module), type(module))


def thaw_layers(model: nn.Module):
    """Undo :func:`freeze_layers`."""
    for module in model.modules():
        if type(module) in _FROZEN.values():
            module.__class__ = type(module).__base__
