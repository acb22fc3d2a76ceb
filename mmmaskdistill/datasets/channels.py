"""Measure the channels of images, for the mean and std of a data preprocessor."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmmaskdistill.errors import ConfigError

from .image_files import read_image, select_bands


class ChannelStatistics(NamedTuple):
    """What the values of each channel are like, over all pixels of some images.

    Attributes:
        mean (list[float]): Mean of each channel.
        std (list[float]): Standard deviation of each channel; 1 for a channel that has
            the same value everywhere, so that one can divide by it.
        minimum (list[float]): Smallest value of each channel.
        maximum (list[float]): Largest value of each channel.
        pixels (int): Number of pixels of all images.
    """

    mean: list[float]
    std: list[float]
    minimum: list[float]
    maximum: list[float]
    pixels: int


def measure_channels(
    files: Sequence[str],
    bands: Sequence[int] | None = None,
    backend_args: dict | None = None,
) -> ChannelStatistics:
    """Measure the mean and the standard deviation of each channel.

    Every pixel counts the same. Values that are NaN or infinite do not count.

    Args:
        files (Sequence[str]): The images. Of a large data set, some hundred are enough.
        bands (Sequence[int], optional): Channels to measure, in this order, counted
            from 0. Defaults to None, all of them.
        backend_args (dict, optional): Arguments of mmengine's file backend. Defaults to
            None.

    Returns:
        ChannelStatistics: In the order of ``bands``, or else of the files, such as
        red, green, blue.

    Raises:
        UnreadableImage: If a file is missing, empty, damaged or no image.
        ConfigError: If there is no file, the images have different numbers of
            channels, or a channel has no finite value.
    """
    parts = []
    for file in files:
        image = select_bands(read_image(file, backend_args), bands, file)
        if parts and image.shape[2] != len(parts[0][0]):
            raise ConfigError(
                f"the image '{file}' has {image.shape[2]} channels, "
                f"'{files[0]}' has {len(parts[0][0])}: expected the same number"
            )
        parts.append(_measure(image.reshape(-1, image.shape[2]).T))
    if not parts:
        raise ConfigError('no images to measure: expected at least one file')
    counts, means, variances, minima, maxima, pixels = map(np.array, zip(*parts))
    total = counts.sum(0)
    if not total.all():
        raise ConfigError(
            f'channel {total.argmin()} of {len(parts)} images, such as '
            f"'{files[0]}', has no finite value"
        )
    mean = (counts * means).sum(0) / total
    # The variance within each image, and that of the images' means
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    std = np.sqrt(variance)
    return ChannelStatistics(
        mean.tolist(),
        np.where(std > 0, std, 1.0).tolist(),
        minima.min(0).tolist(),
        maxima.max(0).tolist(),
        int(pixels.sum()),
    )


def _measure(channels: np.ndarray) -> tuple:
    """Measure the channels [C, N] of one image."""
    values = channels.astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(1)
    divisor = np.maximum(count, 1)
    mean = np.where(finite, values, 0).sum(1) / divisor
    centered = np.where(finite, values - mean[:, None], 0)
    return (
        count,
        mean,
        (centered**2).sum(1) / divisor,
        np.where(finite, values, np.inf).min(1),
        np.where(finite, values, -np.inf).max(1),
        channels.shape[1],
    )
