"""Measure the channels of images, for the mean and std of a data preprocessor."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mmmaskdistill.errors import ConfigError

from .image_files import read_image, select_bands


class ImageStatistics(NamedTuple):
    """What the values of each channel of one image are like.

    Values that are NaN or infinite do not count.

    Attributes:
        count (tuple[int, ...]): Number of values that count.
        mean (tuple[float, ...]): Mean, 0 without a value.
        std (tuple[float, ...]): Standard deviation, likewise.
        low (tuple[float, ...]): Smallest value, infinite without a value.
        high (tuple[float, ...]): Largest value, likewise.
    """

    count: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class ChannelStatistics(NamedTuple):
    """What the values of each channel are like, over all pixels of some images.

    Attributes:
        mean (list[float]): Mean of each channel.
        std (list[float]): Standard deviation of each channel; 1 for a channel that has
            the same value everywhere, so that one can divide by it.
        minimum (list[float]): Smallest value of each channel.
        maximum (list[float]): Largest value of each channel.
        count (list[int]): Number of values of each channel that count.
    """

    mean: list[float]
    std: list[float]
    minimum: list[float]
    maximum: list[float]
    count: list[int]


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
        if parts and image.shape[2] != len(parts[0].mean):
            raise ConfigError(
                f"the image '{file}' has {image.shape[2]} channels, "
                f"'{files[0]}' has {len(parts[0].mean)}: expected the same number"
            )
        parts.append(measure_image(image))
    if not parts:
        raise ConfigError('no images to measure: expected at least one file')
    found = join_statistics(parts)
    if 0 in found.count:
        raise ConfigError(
            f'channel {found.count.index(0)} of {len(parts)} images, such as '
            f"'{files[0]}', has no finite value"
        )
    return found


def measure_image(image: np.ndarray) -> ImageStatistics:
    """Measure the channels of one image.

    Args:
        image (ndarray): [h, w, C].

    Returns:
        ImageStatistics: What the values are like.
    """
    if image.dtype == np.uint8:
        return _measure_bytes(image)
    channels = image.reshape(-1, image.shape[2]).T.astype(np.float64)  # [C, h*w]
    finite = np.isfinite(channels)
    count = finite.sum(1)
    divisor = np.maximum(count, 1)
    mean = np.where(finite, channels, 0).sum(1) / divisor
    centered = np.where(finite, channels - mean[:, None], 0)
    return ImageStatistics(
        *(
            tuple(part.tolist())
            for part in (
                count,
                mean,
                np.sqrt((centered**2).sum(1) / divisor),
                np.where(finite, channels, np.inf).min(1),
                np.where(finite, channels, -np.inf).max(1),
            )
        )
    )


def _measure_bytes(image: np.ndarray) -> ImageStatistics:
    """Measure an image of 8 bits through its histogram, which is quickly counted."""
    values, channels = np.arange(256.0), []
    image = np.ascontiguousarray(image)  # it may have been turned
    pixels = image.shape[0] * image.shape[1]
    for k in range(image.shape[2]):
        counts = cv2.calcHist([image], [k], None, [256], [0, 256]).ravel()
        share = counts.astype(np.float64) / counts.sum(dtype=np.float64)
        mean = float(share @ values)
        std = float(np.sqrt(share @ (values - mean) ** 2))
        present = counts.nonzero()[0]
        channels.append((pixels, mean, std, float(present[0]), float(present[-1])))
    return ImageStatistics(*zip(*channels))


def join_statistics(parts: Sequence[ImageStatistics]) -> ChannelStatistics:
    """Join what was measured of several images.

    Args:
        parts (Sequence[ImageStatistics]): One for each image, all with the same number
            of channels.

    Returns:
        ChannelStatistics: Statistics of all values of all images.
    """
    counts, means, deviations, minima, maxima = map(np.array, zip(*parts))
    total = counts.sum(0)
    divisor = np.maximum(total, 1)
    mean = (counts * means).sum(0) / divisor
    # The variance within each image, and that of the images' means
    variance = (counts * (deviations**2 + (means - mean) ** 2)).sum(0) / divisor
    std = np.sqrt(variance)
    return ChannelStatistics(
        mean.tolist(),
        np.where(std > 0, std, 1.0).tolist(),
        minima.min(0).tolist(),
        maxima.max(0).tolist(),
        total.tolist(),
    )
