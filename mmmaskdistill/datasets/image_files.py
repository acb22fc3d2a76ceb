"""Read image files with any number of channels and any depth.

OpenMMLab's loaders return three channels of 8 bits, whatever the file holds. The
functions of this file return what the file holds: one band or twelve, 8 or 16 bits or
floating point, in the order in which the file stores them.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from mmmaskdistill.errors import ConfigError

# Endings of the formats that OpenCV, Pillow and therefore all loaders can read.
IMAGE_ENDINGS = (
    '.bmp',
    '.jp2',
    '.jpe',
    '.jpeg',
    '.jpg',
    '.pbm',
    '.pgm',
    '.png',
    '.pnm',
    '.ppm',
    '.tif',
    '.tiff',
    '.webp',
)
# Labels may also be GIF files, as those of DRIVE and Carvana are.
LABEL_ENDINGS = (*IMAGE_ENDINGS, '.gif')
ORIENTATION = 0x0112
TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# Numbers of TIFF's tags, and the photometric interpretations in which samples are
# quantities: of darkness or light, or of red, green and blue.
WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES = 256, 257, 258, 262, 277
BLACK_IS_ZERO, RGB = 1, 2
# Number of channels for each kind of color in the header of a PNG
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# The widest stack of bands that is not taken for the columns of an image
MOST_BANDS = 32
NEEDS_TIFFFILE = 'to read it, pip install "mmmaskdistill[tiff]"'


class UnreadableImage(ConfigError, OSError):
    """An image file is missing, is empty or contains no image."""


class ImageInfo(NamedTuple):
    """What the header of an image file says.

    Attributes:
        height (int): Height in pixels, after the rotation that EXIF asks for.
        width (int): Width in pixels, after this rotation.
        channels (int): Number of channels.
        dtype (str): Type of the values, such as ``'uint8'``, ``'uint16'`` or
            ``'float32'``.
        format (str): Name of the format, such as ``'JPEG'`` or ``'TIFF'``.
    """

    height: int
    width: int
    channels: int
    dtype: str
    format: str


def read_image(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read an image with all its channels and its full depth.

    An image is rotated as its EXIF orientation asks for. Colors of a palette and CMYK
    become RGB, and black and white become 0 and 255. Of an animation, the first
    picture is read. The bands of a TIFF may be interleaved, in planes of their own, or
    in one page each.

    Args:
        path (str): The file, or an address that mmengine's file backends can read.
        backend_args (dict, optional): Arguments of the file backend. Defaults to None.

    Returns:
        ndarray: [h, w, C] of the file's own type, in the file's order of the channels,
        such as red, green, blue.

    Raises:
        UnreadableImage: If the file is missing, empty, damaged or no image.
        ConfigError: If the file is a TIFF that only the package ``tifffile`` can read,
            which is not installed.
    """
    return use_file(path, decode, backend_args)[0]


def image_info(path: str, backend_args: dict | None = None) -> ImageInfo:
    """Read the size, the channels and the depth of an image from its header.

    Nothing is decoded, so a file whose pixels are damaged may pass.

    Args:
        path (str): See :func:`read_image`.
        backend_args (dict, optional): See :func:`read_image`. Defaults to None.

    Returns:
        ImageInfo: What :func:`read_image` would return.

    Raises:
        UnreadableImage: If the file is missing, empty or no image.
        ConfigError: See :func:`read_image`.
    """
    return use_file(path, _describe, backend_args)


def select_bands(
    image: np.ndarray, bands: Sequence[int] | None, path: str
) -> np.ndarray:
    """Select channels of an image.

    Args:
        image (ndarray): [h, w, C].
        bands (Sequence[int], optional): Channels to return in this order, counted from
            0. None returns all.
        path (str): The file, for the message.

    Returns:
        ndarray: [h, w, len(bands)].

    Raises:
        ConfigError: If the image does not have one of the channels.
    """
    if bands is None:
        return image
    channels = image.shape[2]
    if not all(0 <= band < channels for band in bands):
        raise ConfigError(
            f"bands={list(bands)}: '{path}' has {channels} channels, expected numbers "
            f'from 0 to {channels - 1}'
        )
    return np.ascontiguousarray(image[..., list(bands)])


def open_file(path: str, backend_args: dict | None = None) -> BinaryIO:
    """Open a file.

    Args:
        path (str): See :func:`read_image`.
        backend_args (dict, optional): See :func:`read_image`. Defaults to None.

    Returns:
        BinaryIO: The open file, or a copy of it in memory if it is not a local file.

    Raises:
        OSError: If there is no such file, or it is empty.
    """
    if backend_args is None and '://' not in str(path):
        file = open(path, 'rb')  # noqa: SIM115  the caller closes it
    else:
        file = io.BytesIO(fileio.get(path, backend_args=backend_args))
    if not file.read(1):
        file.close()
        raise OSError('the file is empty')
    file.seek(0)
    return file


def use_file(
    path: str,
    function: Callable,
    backend_args: dict | None = None,
    what: str = 'image',
) -> Any:
    """Call a function with an open file, and name the file in what it raises.

    Args:
        path (str): See :func:`read_image`.
        function (Callable): Takes the open file.
        backend_args (dict, optional): See :func:`read_image`. Defaults to None.
        what (str): What the file is, for the message. Defaults to ``'image'``.

    Returns:
        Any: What the function returns.

    Raises:
        ConfigError: If the function raises one.
        UnreadableImage: If the file cannot be opened, or the function raises another
            error.
    """
    try:
        with open_file(path, backend_args) as file:
            return function(file)
    except ConfigError as error:
        raise ConfigError(f"cannot load the {what} '{path}': {error}") from error
    except Exception as error:
        raise UnreadableImage(
            f"cannot load the {what} '{path}': {explain(error)}"
        ) from error


def explain(error: Exception) -> str:
    """Say why a file could not be read.

    Args:
        error (Exception): What a storage backend or a decoder has raised.
    """
    if isinstance(error, UnidentifiedImageError) or not str(error):
        return 'it contains no image that can be decoded'
    if isinstance(error, FileNotFoundError):
        return 'No such file'
    return str(error)


def decode(file: BinaryIO) -> tuple[np.ndarray, str]:
    """Decode an image as :func:`read_image` does.

    Args:
        file (BinaryIO): The open file.

    Returns:
        tuple[ndarray, str]: The image [h, w, C], and the name of the format.
    """
    if is_measured_tiff(file):
        return decode_tiff(file), 'TIFF'
    image = Image.open(file)
    array = _decode_deep(image, file)
    if array is None:
        # Pillow rotates a TIFF when it loads it, and only then forgets the rotation.
        image.load()
        array = np.asarray(_plain(image))
    array = orient(array, image.getexif().get(ORIENTATION, 1))
    return array if array.ndim == 3 else array[..., None], image.format


def _describe(file: BinaryIO) -> ImageInfo:
    if is_measured_tiff(file):
        return _describe_tiff(file)
    image = Image.open(file)
    width, height = image.size
    if _orientation(image, file) > 4:
        stored = (width, height)
        if image.format == 'TIFF':
            # Newer versions of Pillow have already exchanged the sides.
            stored = image.tag_v2[WIDTH], image.tag_v2[HEIGHT]
        height, width = stored
    if image.format == 'PNG' and (channels := _deep_png(file)):
        return ImageInfo(height, width, channels, 'uint16', 'PNG')
    sample = _decode_deep(image, file)
    if sample is None:
        sample = np.asarray(_plain(Image.new(image.mode, (1, 1))))
    channels = sample.shape[2] if sample.ndim == 3 else 1
    return ImageInfo(height, width, channels, sample.dtype.name, image.format)


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    """Return the EXIF orientation of an image, without decoding it."""
    if image.format != 'PNG' or 'exif' in image.info:
        return image.getexif().get(ORIENTATION, 1)
    # Pillow decodes a PNG to find EXIF data behind the pixels.
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], 'big'), head[4:]
        if kind == b'eXIf':
            exif = Image.Exif()
            exif.load(file.read(length))
            return exif.get(ORIENTATION, 1)
        if kind == b'IEND':
            break
        file.seek(length + 4, io.SEEK_CUR)
    return 1


def _deep_png(file: BinaryIO) -> int:
    """Return the number of channels of a PNG of 16 bits, 0 of another one."""
    file.seek(24)  # where the header has the depth and the kind of color
    depth, kind = file.read(2)
    return PNG_CHANNELS[kind] if depth == 16 else 0


def _plain(image: Image.Image) -> Image.Image:
    """Turn a mode that is no measurement of light into gray or RGB."""
    if image.mode == '1':
        return image.convert('L')
    if image.mode in ('L', 'LA', 'RGB', 'RGBA', 'I', 'F') or ';' in image.mode:
        return image
    return image.convert('LA' if image.mode == 'La' else 'RGB')


def _decode_deep(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """Decode images of more than 8 bits that Pillow would reduce to 8.

    Returns:
        ndarray | None: [h, w] or [h, w, C], or None if Pillow reads the image well.
    """
    gray_and_alpha = False
    if image.format == 'PNG':
        channels = _deep_png(file)
        if not channels:
            return None
        gray_and_alpha = channels == 2
    elif image.format not in ('PPM', 'JPEG2000'):
        return None
    file.seek(0)
    content = file.read()
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        return None
    array = red_first(array)
    # OpenCV repeats the gray value of a gray image that has an alpha channel.
    return array[..., [0, 3]] if gray_and_alpha else array


def red_first(array: np.ndarray) -> np.ndarray:
    """Turn OpenCV's order of the channels, blue first, into red first.

    Args:
        array (ndarray): [h, w] or [h, w, C]. Only 3 or 4 channels have this order.
    """
    if array.ndim == 3 and array.shape[2] in (3, 4):
        return array[..., [2, 1, 0, 3][: array.shape[2]]]
    return array


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate or mirror an image as its EXIF orientation asks for.

    Args:
        array (ndarray): [h, w] or [h, w, C].
        orientation (int): 1 to 8; any other number changes nothing.

    Returns:
        ndarray: The image as it is to be seen.
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def is_measured_tiff(file: BinaryIO) -> bool:
    """Tell whether a file is a TIFF with samples of gray, RGB or other bands.

    The other kinds of TIFF (palettes, CMYK, JPEG's colors, black and white) have 8
    bits or less and are for Pillow.

    Args:
        file (BinaryIO): The file, which is wound back to its beginning.
    """
    start = file.read(4)
    file.seek(0)
    if start not in TIFF:
        return False
    tags = read_tags(file)
    bits = tags.get(BITS, (1,))
    return (
        tags.get(PHOTOMETRIC, BLACK_IS_ZERO) in (BLACK_IS_ZERO, RGB)
        or tags.get(PHOTOMETRIC, BLACK_IS_ZERO) > 10
    ) and np.max(bits) > 1


def read_tags(file: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Read the tags of the first page of a TIFF, and wind the file back.

    Args:
        file (BinaryIO): The file.
    """
    header = file.read(8)
    if b'+' in header[:4]:  # BigTIFF
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    file.seek(0)
    return tags


def decode_tiff(file: BinaryIO) -> np.ndarray:
    """Decode a TIFF that :func:`is_measured_tiff`.

    Args:
        file (BinaryIO): The file.

    Returns:
        ndarray: [h, w, C] of the file's type.

    Raises:
        ConfigError: If neither an installed ``tifffile`` nor OpenCV can decode it.
        ValueError: If the file has more dimensions than rows, columns and channels.
    """
    tags = read_tags(file)
    try:
        import tifffile
    except ImportError:
        array, problem = None, 'the package tifffile is not installed'
    else:
        with tifffile.TiffFile(file) as tiff:
            try:
                array = tiff.series[0].asarray()
            except ValueError as error:
                if 'imagecodecs' not in str(error):
                    raise
                array, problem = None, str(error)
            else:
                array = channels_last(array, tiff.series[0].axes)
    if array is None:
        file.seek(0)
        array = _decode_by_opencv(file.read(), tags)
        if array is None:
            raise ConfigError(f'{problem}; {NEEDS_TIFFFILE}')
    return orient(array, tags.get(ORIENTATION, 1))


def _decode_by_opencv(
    content: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2
) -> np.ndarray | None:
    """Decode a TIFF of one page with 1, 3 or 4 channels, or return None.

    OpenCV drops the second of two channels and all pages but the first, and multiplies
    three channels of 8 bits by the fourth.
    """
    samples, bits = tags.get(SAMPLES, 1), np.max(tags.get(BITS, (1,)))
    if samples not in (1, 3, 4) or (samples == 4 and bits <= 8) or tags.next:
        return None
    array = cv2.imdecode(
        np.frombuffer(content, np.uint8),
        cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION,
    )
    if array is None:
        return None
    array = red_first(array)
    return array if array.ndim == 3 else array[..., None]


def channels_last(array: np.ndarray, axes: str) -> np.ndarray:
    """Bring the axes of a TIFF into the order [h, w, C].

    Args:
        array (ndarray): The content of the file.
        axes (str): A letter for each axis: ``Y`` and ``X`` are rows and columns.

    Returns:
        ndarray: [h, w, C], a view of the array where possible.

    Raises:
        ValueError: If there are two further axes.
    """
    rows, columns = axes.index('Y'), axes.index('X')
    if axes == 'QYX' and array.shape[2] <= MOST_BANDS < min(array.shape[:2]):
        # tifffile.imwrite takes an array [h, w, C] for h pages of w rows, unless it is
        # told otherwise.
        rows, columns = 0, 1
    others = [
        axis
        for axis in range(array.ndim)
        if axis not in (rows, columns) and array.shape[axis] > 1
    ]
    if len(others) > 1:
        raise ValueError(
            f'it holds {array.shape[others[0]]} images of {array.shape[others[1]]} '
            'channels: expected a single image'
        )
    array = np.moveaxis(array, [rows, columns, *others], [0, 1, 2][: 2 + len(others)])
    return array.reshape(*array.shape[:2], -1)


def _describe_tiff(file: BinaryIO) -> ImageInfo:
    tags = read_tags(file)
    try:
        import tifffile
    except ImportError:
        array = decode_tiff(file)
        return ImageInfo(*array.shape, array.dtype.name, 'TIFF')
    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        # An array without memory, which has the shape alone.
        array = np.broadcast_to(np.zeros((), series.dtype), series.shape)
        array = orient(channels_last(array, series.axes), tags.get(ORIENTATION, 1))
    return ImageInfo(*array.shape, array.dtype.name, 'TIFF')
