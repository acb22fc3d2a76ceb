"""Read label files of any kind through the table of classes."""

import re
from functools import lru_cache, partial
from typing import BinaryIO

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from mmmaskdistill.errors import ConfigError, first_few
from mmmaskdistill.registry import TRANSFORMS

from .classes import IGNORED, ClassTable, to_hex
from .image_files import (
    ORIENTATION,
    decode_tiff,
    is_measured_tiff,
    orient,
    use_file,
)

TURNED = (
    '. The image is turned as its EXIF orientation asks for; write the images anew '
    'without an orientation if the labels were made for the pixels as they are stored'
)


def read_values(
    path: str, colours: bool = False, backend_args: dict | None = None
) -> np.ndarray:
    """Read what a label file holds, before any table of classes.

    Args:
        path (str): The file, or an address that mmengine's file backends can read.
        colours (bool): Whether to return the colors of a palette and not the indices
            into it. Defaults to False.
        backend_args (dict, optional): Arguments of the file backend. Defaults to None.

    Returns:
        ndarray: Integers [h, w]; or red, green and blue [h, w, 3] uint8 if the file is
        a colored picture. A colored picture in which all pixels are gray is [h, w],
        unless ``colours`` is True. A black and white picture has 0 and 1.

    Raises:
        UnreadableImage: If the file is missing, empty, damaged or no label.
        ConfigError: If the file is a TIFF that only the package ``tifffile`` can read,
            which is not installed.
    """
    return use_file(path, partial(_decode, colours=colours), backend_args, 'label')


def read_palette(path: str) -> dict[int, tuple[int, int, int]]:
    """Read the palette of a label file.

    Args:
        path (str): The file.

    Returns:
        dict[int, tuple[int, int, int]]: The color of each index; empty if the file has
        no palette.

    Raises:
        UnreadableImage: If the file is missing, empty or no image.
    """

    def palette(file: BinaryIO) -> list[int]:
        with Image.open(file) as image:
            return (image.getpalette('RGB') if image.mode == 'P' else None) or []

    parts = use_file(path, palette, what='label')
    return {k // 3: tuple(parts[k : k + 3]) for k in range(0, len(parts), 3)}


def read_label(
    path: str, table: ClassTable, backend_args: dict | None = None
) -> np.ndarray:
    """Read the classes of a label file.

    Args:
        path (str): See :func:`read_values`.
        table (ClassTable): The table of classes.
        backend_args (dict, optional): See :func:`read_values`. Defaults to None.

    Returns:
        ndarray: [h, w] uint8: 0 to K-1, and 255 for ignored pixels.

    Raises:
        UnreadableImage: See :func:`read_values`.
        ConfigError: If a value or color of the file is not in the table.
    """
    values = read_values(path, table.by_colour, backend_args)
    if values.ndim == 2 and table.by_colour:
        values = np.repeat(values[..., None], 3, -1)
    colours = values.ndim == 3
    if colours:
        # A color is one number: red + 256 green + 65536 blue.
        values = cv2.cvtColor(values.astype(np.uint8), cv2.COLOR_RGB2RGBA)
        values = values.view('<u4')[..., 0] & 0xFFFFFF
    elif values.dtype == bool:
        # The same mask may have one bit a pixel or eight.
        full = 1 not in table.values and IGNORED in table.values
        values = values * np.uint8(IGNORED if full else 1)
    codes = _codes(values, table, colours)
    if not codes.all():
        raise ConfigError(_unknown(path, values[codes == 0], table, colours))
    return (codes - 1).astype(np.uint8)


def _codes(values: np.ndarray, table: ClassTable, colours: bool) -> np.ndarray:
    """Return the index of each pixel's class plus one, or 0 for unknown values."""
    lookup = _lookup(table, colours)
    if values.dtype == np.uint8:
        return cv2.LUT(np.ascontiguousarray(values), lookup[:256])
    if colours or values.dtype == np.uint16:
        return np.take(lookup, values)
    # Numbers without a place in the lookup table are unknown in most cases.
    inside = (values >= 0) & (values < len(lookup))
    codes = np.where(inside, lookup[np.where(inside, values, 0)], 0)
    for value, index in table.values.items():
        if not 0 <= value < len(lookup):
            codes[values == value] = index + 1
    return codes


@lru_cache(maxsize=4)
def _lookup(table: ClassTable, colours: bool) -> np.ndarray:
    # The system provides the memory of zeros when something is written to it.
    lookup = np.zeros(1 << (24 if colours else 16), np.int16)
    known = table.values
    if colours:
        known = {r | (g << 8) | (b << 16): i for (r, g, b), i in table.colours.items()}
    for value, index in known.items():
        if 0 <= value < len(lookup):
            lookup[value] = index + 1
    return lookup


def _unknown(path: str, values: np.ndarray, table: ClassTable, colours: bool) -> str:
    """Say which values of a file are not in the table."""
    unknown, counts = np.unique(values, return_counts=True)
    if colours:
        unknown = [to_hex(int(colour).to_bytes(3, 'little')) for colour in unknown]
    found = [
        f'{value} ({count} pixels)' for value, count in zip(unknown, counts.tolist())
    ]
    advice = 'add a line for it, with ignore set to yes if its pixels do not count'
    if str(path).lower().endswith(('.jpg', '.jpeg')):
        advice = 'JPEG changes values and colors, so save labels as PNG'
    elif colours and not table.by_colour:
        advice = (
            'the file is a colored picture, so the column colour must have its colors'
        )
    return (
        f"the label '{path}' has the {'color' if colours else 'value'} "
        f'{first_few(found)}, which is not in {table.source}. It has '
        f'{table.describe_values(colours)}: {advice}'
    )


def _decode(file: BinaryIO, colours: bool) -> np.ndarray:
    if is_measured_tiff(file):
        return _flat(decode_tiff(file), colours)
    image = Image.open(file)
    # Newer versions of Pillow rotate a TIFF when they load it.
    image.load()
    orientation = image.getexif().get(ORIENTATION, 1)
    if image.mode not in ('1', 'L', 'LA', 'P', 'PA', 'I', 'F', 'RGB', 'RGBA') and (
        ';' not in image.mode
    ):
        image = image.convert('RGB')
    if colours and image.mode in ('P', 'PA'):
        image = image.convert('RGB')
    array = np.asarray(image)
    if image.format == 'PPM' and image.mode in ('L', 'I'):
        array = _unscaled(array, file)
    return _flat(orient(array, orientation), colours)


def _unscaled(array: np.ndarray, file: BinaryIO) -> np.ndarray:
    """Undo Pillow's scaling of a PGM, whose header has the largest value."""
    file.seek(0)
    largest = int(re.match(rb'P\d(?:\s+(?:#[^\n]*\n\s*)*(\d+)){3}', file.read(999))[1])
    white = 255 if array.dtype == np.uint8 else 65535
    return np.rint(array * (largest / white)).astype(np.int32)


def _flat(array: np.ndarray, colours: bool) -> np.ndarray:
    """Reduce the channels of a label file to values [h, w] or colors [h, w, 3]."""
    if array.dtype.kind == 'f':
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            wrong = array[whole != array].flat[0]
            raise ValueError(f'{wrong} is not a whole number, as labels have to be')
        array = whole.astype(np.int64)
    if array.ndim == 2:
        return array
    channels = array.shape[2]
    if channels > 4:
        raise ValueError(f'it has {channels} channels, expected one, or RGB')
    if channels < 3:
        return array[..., 0]
    array = array[..., :3]
    if not colours and _is_gray(array):
        return array[..., 0]
    if array.max(initial=0) > 255:
        raise ValueError('its colors have more than 8 bits')
    return array.astype(np.uint8)


def _is_gray(array: np.ndarray) -> bool:
    # Most colored pictures show it in a few pixels.
    return all(
        np.array_equal(part[..., 0], part[..., k])
        for part in (array[::32, ::32], array)
        for k in (1, 2)
    )


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """Load a label file through a table of classes.

    This takes the place of mmseg's ``LoadAnnotations``, which only reads index images
    and knows no table. A label must have the size of its image, as both are on disk.

    Args:
        classes (str | ClassTable): The table of classes, or its CSV file.
        backend_args (dict, optional): Arguments of mmengine's file backend. Defaults to
            None.

    Raises:
        ConfigError: If the table cannot be read.
    """

    def __init__(self, classes: str | ClassTable, backend_args: dict | None = None):
        if not isinstance(classes, ClassTable):
            classes = ClassTable.read(classes)
        self.table = classes
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the label of an image.

        Args:
            results (dict): Results with ``seg_map_path``.

        Returns:
            dict: The results with ``gt_seg_map``, [h, w] uint8.

        Raises:
            UnreadableImage: If the file is missing, empty, damaged or no label.
            ConfigError: If the file has a value or color that is not in the table, or
                another size than its image.
        """
        path = results['seg_map_path']
        label = read_label(path, self.table, self.backend_args)
        size = results.get('ori_shape')
        if size is not None and label.shape != tuple(size[:2]):
            raise ConfigError(
                f"the label '{path}' has {_size(label.shape)} pixels, its image "
                f"'{results.get('img_path')}' has {_size(size)}: expected the same "
                'size' + (TURNED if label.shape == tuple(size[1::-1]) else '')
            )
        results['gt_seg_map'] = label
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(classes={self.table.source})'


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[1]} x {shape[0]}'
