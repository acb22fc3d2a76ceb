"""Measure how a model's images are normalized, so that others can do the same."""

from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError

from ..inference import LoadedModel
from ..pipelines import loads

# Side in pixels and value of the uniform images that the normalization is measured on.
SIDE, VALUE = 64, 100


class Normalization(NamedTuple):
    """How the channels of an image become those of the network's input.

    Channel k of the input is ``(image[order[k]] - mean[k]) / std[k]``.

    Attributes:
        channels (int): Number of channels of the image.
        order (tuple[int, ...]): Channels of the image, of which 0, 1 and 2 are red,
            green and blue if there are three. Otherwise they have the order of the
            file.
        mean (tuple[float, ...]): Means, in the order of the network's channels.
        std (tuple[float, ...]): Standard deviations, likewise.
    """

    channels: int
    order: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channel_order(self) -> str:
        """``'RGB'``, ``'BGR'``, or ``'file'`` for another number of channels."""
        names = {(0, 1, 2): 'RGB', (2, 1, 0): 'BGR'}
        return names.get(self.order, 'file') if self.channels == 3 else 'file'

    def apply(self, images: Tensor) -> Tensor:
        """Normalize images.

        Args:
            images (Tensor): [B, C, H, W] in the order of the image's channels.

        Returns:
            Tensor: [B, C, H, W] float32, the network's input.
        """
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (images[:, list(self.order)].float() - mean) / std


def number_of_channels(model: nn.Module) -> int:
    """Return the number of channels of a model's images.

    Args:
        model (nn.Module): A model with a ``backbone``.
    """
    for part in model.backbone.modules():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
    return 3


def channels_of_files(loaded: LoadedModel) -> int:
    """Return the number of channels that image files have for a model.

    Args:
        loaded (LoadedModel): The model, whose pipeline may select some of them.
    """
    for step in loaded.steps:
        if loads(step) == 'image':
            if step.get('channels'):
                return step['channels']
            if step.get('bands'):
                return max(3, 1 + max(step['bands']))
            break
    return number_of_channels(loaded.model)


def measure_normalization(loaded: LoadedModel) -> Normalization:
    """Measure what the test pipeline and the data preprocessor do to colors.

    Args:
        loaded (LoadedModel): The model.

    Returns:
        Normalization: The normalization.

    Raises:
        ConfigError: If it is more than a mean and a deviation of each channel.
    """
    channels = channels_of_files(loaded)
    image = np.zeros((SIDE, SIDE, channels), np.uint8)
    black = _normalize(loaded, image)  # [C]
    rows = []
    for k in range(channels):
        image[:] = 0
        image[..., k] = VALUE
        rows.append(_normalize(loaded, image) - black)
    slopes = torch.stack(rows, 1) / VALUE  # [channel of the input, of the image]
    order = slopes.abs().argmax(1)
    slope = slopes.gather(1, order[:, None])[:, 0]
    rest = slopes.scatter(1, order[:, None], 0.0).abs().max()
    if rest > 1e-6 or not slope.all():
        raise ConfigError(
            'the test pipeline or the data preprocessor of the config mixes the '
            'channels of an image: expected one that only normalizes each of them'
        )
    measured = -black / slope, 1 / slope
    named = [
        getattr(loaded.model.data_preprocessor, name, None) for name in ('mean', 'std')
    ]
    return Normalization(
        channels,
        tuple(order.tolist()),
        *(_exact(*pair) for pair in zip(measured, named)),
    )


def _exact(measured: Tensor, named: Tensor | None) -> tuple[float, ...]:
    """Return the preprocessor's own values if they are those that were measured."""
    if isinstance(named, Tensor) and named.numel() == len(measured):
        named = named.detach().cpu().double().flatten()
        if torch.allclose(named, measured, rtol=1e-4, atol=1e-3):
            measured = named
    # Numbers of 32 bits have about seven digits.
    return tuple(float(f'{value:.7g}') for value in measured.tolist())


def _normalize(loaded: LoadedModel, image: np.ndarray) -> Tensor:
    """Return the network's input for an image of one color, [C] float64."""
    data = pseudo_collate([loaded.preprocess(image)])
    inputs = loaded.model.data_preprocessor(data)['inputs']
    return inputs[0, :, 0, 0].detach().cpu().double()
