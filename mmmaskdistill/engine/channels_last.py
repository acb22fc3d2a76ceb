"""Store the weights of convolutions with their channels last in memory."""

from typing import Any

import torch
from torch import nn

from mmmaskdistill.errors import ConfigError


def use_channels_last(model: nn.Module, value: Any) -> None:
    """Follow the setting ``channels_last`` of a config.

    Convolutions whose input or weight has its channels last compute in this layout, and
    so do those that follow. Feature maps of a ViT have it already, if they are not
    contiguous (``contiguous_maps=False``), and the weights are then no longer copied in
    every call.

    Args:
        model (nn.Module): The model, changed in place: parameters with four dimensions
            keep their shapes and values, and get other strides.
        value (Any): The setting's value.

    Raises:
        ConfigError: If the value is not True or False.
    """
    if not isinstance(value, bool):
        raise ConfigError(f'channels_last={value!r}: expected True or False')
    if value:
        model.to(memory_format=torch.channels_last)
