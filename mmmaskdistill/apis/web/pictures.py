"""Check the files that visitors upload, and turn arrays into what a page shows."""

import base64
import io
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image

from mmmaskdistill.datasets.image_files import (
    UnreadableImage,
    image_info,
    is_measured_tiff,
    use_file,
)
from mmmaskdistill.errors import ConfigError, first_line

from ..inference.inputs import as_picture

# Longest side in pixels of a picture on the page. Results have their full size before.
SHOWN = 1024


class Share(NamedTuple):
    """A class that a label map has.

    Attributes:
        label (int): Its number.
        name (str): Its name.
        color (tuple[int, int, int]): Its RGB color, 0 to 255.
        share (float): Its share of the pixels, 0 to 1.
    """

    label: int
    name: str
    color: tuple[int, int, int]
    share: float


def open_picture(path: str, max_pixels: int) -> np.ndarray:
    """Read an uploaded picture, if it is not too large.

    Args:
        path (str): The file.
        max_pixels (int): Largest number of pixels. It is compared with the file's
            header before anything is decoded.

    Returns:
        ndarray: [H, W, 3] uint8 RGB.

    Raises:
        ConfigError: If the file is no picture or has too many pixels. The message does
            not name the server's folders.
    """
    try:
        width, height = use_file(path, _size)
        if height * width > max_pixels:
            raise ConfigError(
                f'The picture has {width} x {height} pixels: expected at most '
                f'{max_pixels / 1e6:g} million'
            )
        return as_picture(path)
    except UnreadableImage as error:
        reason = first_line(error).removeprefix(f"cannot load the image '{path}': ")
        raise ConfigError(f'This file cannot be shown: {reason}') from error


def _size(file: BinaryIO) -> tuple[int, int]:
    """Return the width and the height that an image's header says."""
    if is_measured_tiff(file):
        # Pillow does not know all kinds of TIFF.
        info = image_info(file.name)
        return info.width, info.height
    # `image_info` would decode a PNG, whose orientation may be at the end.
    return Image.open(file).size


def rank_shares(
    labels: np.ndarray, names: tuple[str, ...] | None, palette: list[list[int]]
) -> list[Share]:
    """List the classes that a label map has, the largest first.

    Args:
        labels (ndarray): Labels [H, W].
        names (tuple[str, ...], optional): Names of the classes. None for numbers.
        palette (list[list[int]]): RGB color of each class, 0 to 255.

    Returns:
        list[Share]: The classes. Labels that are no class count as pixels, but are not
        in the list.
    """
    counts = np.bincount(labels.ravel(), minlength=len(palette))[: len(palette)]
    order = np.argsort(-counts, kind='stable')
    return [
        Share(
            int(label),
            names[label] if names else str(label),
            tuple(palette[label]),
            float(counts[label] / labels.size),
        )
        for label in order
        if counts[label]
    ]


def shrink(array: np.ndarray, side: int = SHOWN) -> np.ndarray:
    """Make an image or a label map small enough for the page.

    Args:
        array (ndarray): An image [H, W, 3], which is averaged, or labels [H, W], of
            which some are chosen.
        side (int): Longest side in pixels. Defaults to 1024.

    Returns:
        ndarray: The array, unchanged if it is small enough.
    """
    height, width = array.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return array
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(array, size, interpolation=how)


def label_image(labels: np.ndarray) -> np.ndarray:
    """Write labels into an image, from which the page reads what is under the mouse.

    Args:
        labels (ndarray): Labels [H, W], 0 to 65535.

    Returns:
        ndarray: [H, W, 3] uint8; red is the label modulo 256, and green the rest.
    """
    high, low = np.divmod(labels.astype(np.uint16), 256)
    return np.stack([low, high, np.zeros_like(low)], axis=2).astype(np.uint8)


def data_address(image: np.ndarray) -> str:
    """Return an image as an address that contains it.

    Args:
        image (ndarray): [H, W, 3] uint8 RGB.

    Returns:
        str: The address of a PNG, ``data:image/png;base64,...``.
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, 'PNG')
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
