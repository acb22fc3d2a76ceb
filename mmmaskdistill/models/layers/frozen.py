"""Faster forward passes for the layers of frozen timm models."""

import torch
import torch.nn.functional as F
from timm.layers.activations import QuickGELU
from torch import Tensor, nn

from .linear import linear


class FrozenLinear(nn.Linear):
    """Linear layer that calls :func:`linear` while gradients are disabled."""

    def forward(self, x: Tensor) -> Tensor:
        """Project ``x`` [..., C] to [..., D]."""
        if torch.is_grad_enabled():
            return super().forward(x)
        return linear(x, self.weight, self.bias)


class FrozenQuickGELU(QuickGELU):
    """QuickGELU that overwrites its input while gradients are disabled.

    ``x * sigmoid(1.702 x)`` equals ``silu(1.702 x) / 1.702``, which can be computed
    in place. timm's version allocates three tensors of the MLP's hidden width.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply QuickGELU to every element of ``x``; the shape does not change."""
        if torch.is_grad_enabled():
            return super().forward(x)
        return F.silu(x.mul_(1.702), inplace=True).mul_(1 / 1.702)


_FROZEN = {cls.__base__: cls for cls in (FrozenLinear, FrozenQuickGELU)}


def freeze_layers(model: nn.Module) -> None:
    """Turn the layers of a frozen model into the faster classes above, in place.

    Layers of type ``nn.Linear`` become :class:`FrozenLinear` and layers of timm's
    type ``QuickGELU`` become :class:`FrozenQuickGELU`. Subclasses stay as they are.

    Args:
        model (nn.Module): The frozen model. Its parameters do not change.
    """
    for module in model.modules():
        module.__class__ = _FROZEN.get(type(module), type(module))


def thaw_layers(model: nn.Module) -> None:
    """Undo :func:`freeze_layers`, in place.

    Args:
        model (nn.Module): The model that :func:`freeze_layers` changed.
    """
    for module in model.modules():
        if type(module) in _FROZEN.values():
            module.__class__ = type(module).__base__
