"""Open large pictures, and read them by window where their format allows it."""

import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from mmmaskdistill.datasets.image_files import (
    BITS,
    ORIENTATION,
    PHOTOMETRIC,
    TIFF,
    channels_last,
    image_info,
    is_measured_tiff,
    read_image,
    read_tags,
    use_file,
)
from mmmaskdistill.errors import ConfigError

from .inputs import as_array

NEEDS_RASTERIO = 'pip install "mmmaskdistill[raster]"'
PNG = b'\x89PNG\r\n\x1a\n'
JPEG2000 = (b'\0\0\0\x0cjP  \r\n\x87\n', b'\xff\x4f\xff\x51')
YCBCR = 6
# Tags of a place on the earth (scale, tie points, matrix, keys) and of no data.
GEOREFERENCE = (33550, 33922, 34264, 34735)
NO_DATA = 42113
# Bytes of blocks that GDAL keeps after it has decoded them.
CACHE = 2**28
# Decoders hold a picture up to three times: their own copy, bytes, and an array.
COPIES = 3


class Georeference(NamedTuple):
    """Where on the earth a raster lies, in rasterio's types.

    Attributes:
        crs (Any): The coordinate reference system, or None.
        transform (Any): The affine transform from pixels to coordinates.
        gcps (tuple): The ground control points and their reference system.
        rpcs (Any): The rational polynomial coefficients, or None.
    """

    crs: Any
    transform: Any
    gcps: tuple
    rpcs: Any


class Kind(NamedTuple):
    """How a file can be read.

    Attributes:
        driver (str | None): GDAL's name for the format, if windows of it can be read.
        upright (bool): Whether the picture lies in the file as it is to be seen.
        plain (bool): Whether the values in the file are those of the picture, and no
            indices of a palette, inks or the like.
    """

    driver: str | None
    upright: bool
    plain: bool


class Raster:
    """A picture in memory, of which windows can be read.

    Args:
        array (ndarray): [H, W, C], or [H, W] with one channel.
        name (str): Name of the picture in messages. Defaults to ``'array'``.

    Attributes:
        height (int): Height in pixels.
        width (int): Width in pixels.
        channels (int): Number of channels.
        dtype (np.dtype): Type of the values.
        has_masks (bool): Whether pixels without data are marked.
        georeference (Georeference | None): Place on the earth, if there is one.
    """

    has_masks = False
    georeference = None

    def __init__(self, array: np.ndarray, name: str = 'array'):
        self._array = array if array.ndim == 3 else array[..., None]
        self.name = name
        self.height, self.width, self.channels = self._array.shape
        self.dtype = self._array.dtype

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window.

        Args:
            rows (slice): The rows, with start and stop.
            columns (slice): The columns, with start and stop.

        Returns:
            ndarray: [h, w, C] of the file's type, in the file's order of the channels.
        """
        return np.asarray(self._array[rows, columns])

    def read_masks(self, rows: slice, columns: slice) -> np.ndarray:
        """Read which values are data, if :attr:`has_masks`.

        Args:
            rows (slice): The rows, with start and stop.
            columns (slice): The columns, with start and stop.

        Returns:
            ndarray: [h, w, C] bool, False where there is no data.
        """
        raise NotImplementedError

    def valid(self, rows: slice, columns: slice) -> np.ndarray:
        """Read which pixels have data in at least one channel.

        Args:
            rows (slice): The rows, with start and stop.
            columns (slice): The columns, with start and stop.

        Returns:
            ndarray: [h, w] bool. All are True unless :attr:`has_masks`.
        """
        shape = rows.stop - rows.start, columns.stop - columns.start
        return np.ones(shape, bool)


class WindowedRaster(Raster):
    """A file of which rasterio reads windows.

    Args:
        dataset (Any): The file, opened by rasterio.
        masked (bool): Whether no-data values, masks and transparency count.
    """

    def __init__(self, dataset: Any, masked: bool):
        from rasterio.enums import ColorInterp, MaskFlags

        self._dataset = dataset
        self.name = dataset.name
        self.height, self.width, self.channels = *dataset.shape, dataset.count
        self.dtype = np.dtype(np.result_type(*dataset.dtypes))
        self.has_masks = masked and any(
            MaskFlags.all_valid not in flags for flags in dataset.mask_flag_enums
        )
        self._measured = [k != ColorInterp.alpha for k in dataset.colorinterp]
        gcps = dataset.gcps
        if dataset.crs or not dataset.transform.is_identity or gcps[0] or dataset.rpcs:
            self.georeference = Georeference(
                dataset.crs, dataset.transform, gcps, dataset.rpcs
            )

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """See :meth:`Raster.read`."""
        return self._read(self._dataset.read, rows, columns)

    def read_masks(self, rows: slice, columns: slice) -> np.ndarray:
        """See :meth:`Raster.read_masks`."""
        return self._read(self._dataset.read_masks, rows, columns) > 0

    def valid(self, rows: slice, columns: slice) -> np.ndarray:
        """See :meth:`Raster.valid`."""
        if not self.has_masks:
            return super().valid(rows, columns)
        return self.read_masks(rows, columns)[..., self._measured].any(-1)

    def _read(self, method: Any, rows: slice, columns: slice) -> np.ndarray:
        from rasterio.errors import RasterioError

        window = (rows.start, rows.stop), (columns.start, columns.stop)
        try:
            return np.moveaxis(method(window=window), 0, -1)
        except RasterioError as error:
            cause = error.__cause__ or error
            raise ConfigError(f"cannot load the image '{self.name}': {cause}") from None


class DecodedTiff(Raster):
    """A TIFF that was decoded as a whole, with what only rasterio knows of it.

    Args:
        raster (Raster): The values.
        dataset (WindowedRaster): The same file, of which the masks and the georeference
            are read.
        kind (Kind): How the file can be read.

    Raises:
        ConfigError: If it has a georeference or masks, which are not those of the
            picture because the file asks for a rotation.
    """

    def __init__(self, raster: Raster, dataset: WindowedRaster, kind: Kind):
        super().__init__(raster.read(slice(None), slice(None)), raster.name)
        self._dataset = dataset
        self.georeference, self.has_masks = dataset.georeference, dataset.has_masks
        if not kind.upright and (self.georeference or self.has_masks):
            raise ConfigError(
                f"the image '{self.name}' has an orientation as well as a georeference "
                'or pixels without data: expected an orientation of 1 in such a file'
            )

    def read_masks(self, rows: slice, columns: slice) -> np.ndarray:
        """See :meth:`Raster.read_masks`."""
        return np.repeat(self.valid(rows, columns)[..., None], self.channels, 2)

    def valid(self, rows: slice, columns: slice) -> np.ndarray:
        """See :meth:`Raster.valid`."""
        return self._dataset.valid(rows, columns)


@contextmanager
def open_raster(source: Any) -> Iterator[Raster]:
    """Open a large picture.

    TIFF, PNG and JPEG 2000 are read by window if ``rasterio`` is installed, and
    uncompressed TIFF if ``tifffile`` is. Everything else is decoded as a whole, once:
    JPEG, files with a palette or an EXIF orientation, TIFF of several pages. Pillow's
    limit for the number of pixels does not count here: a picture may have as many
    pixels as fit into the memory.

    Args:
        source (str | Path | ndarray | Image): A file, or a picture in memory, see
            :func:`.inputs.as_array`.

    Yields:
        Raster: The picture. Its values are those that
        :func:`~mmmaskdistill.datasets.read_image` returns.

    Raises:
        UnreadableImage: If the file is missing, empty, damaged or no image.
        ConfigError: If the picture does not fit into the memory; if a file with a
            georeference or no-data value needs ``rasterio``, which is not installed; or
            if the values are no real numbers.
    """
    if not isinstance(source, (str, os.PathLike)):
        with pillow_without_limit():
            yield _checked(Raster(as_array(source)))
        return
    path = os.fspath(source)
    local = '://' not in path
    kind = use_file(path, _kind) if local else Kind(None, True, False)
    with _open_dataset(path, kind) as dataset:
        if dataset is not None and kind.plain and not dataset.subdatasets:
            yield _checked(WindowedRaster(dataset, masked=kind.driver != 'PNG'))
            return
        array = _map(path) if kind.driver == 'GTiff' and kind.plain else None
        raster = Raster(_decode(path) if array is None else array, path)
        if dataset is not None and kind.driver == 'GTiff':
            raster = DecodedTiff(raster, WindowedRaster(dataset, masked=True), kind)
        yield _checked(raster)


def is_georeferenced(path: str) -> bool:
    """Tell whether a file can have a georeference that rasterio reads.

    Args:
        path (str): The file.

    Returns:
        bool: Whether ``rasterio`` is installed, and the file is a TIFF or JPEG 2000 by
        the ending of its name.
    """
    return path.lower().endswith(('.tif', '.tiff', '.jp2')) and (
        importlib.util.find_spec('rasterio') is not None
    )


@contextmanager
def pillow_without_limit() -> Iterator[None]:
    """Let Pillow open pictures of any number of pixels inside a ``with`` statement.

    By default, Pillow refuses more than 179 million pixels, because a small file of
    unknown origin may be made to fill the memory.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _checked(raster: Raster) -> Raster:
    if raster.dtype.kind not in 'buif':
        raise ConfigError(
            f"the image '{raster.name}' has values of the type {raster.dtype}: "
            'expected integers or floating point'
        )
    return raster


def _kind(file: BinaryIO) -> Kind:
    start = file.read(33)
    file.seek(0)
    if start.startswith(JPEG2000):
        return Kind('JP2OpenJPEG', True, True)
    if start.startswith(PNG) and len(start) == 33:
        depth, color, interlaced = start[24], start[25], start[28]
        with pillow_without_limit():
            upright = Image.open(file).getexif().get(ORIENTATION, 1) == 1
        plain = depth >= 8 and color != 3 and not interlaced and upright
        return Kind('PNG', upright, plain)
    if not start.startswith(TIFF):
        return Kind(None, True, False)
    tags = read_tags(file)
    photographic = tags.get(PHOTOMETRIC) == YCBCR and np.max(tags.get(BITS, (1,))) == 8
    upright = tags.get(ORIENTATION, 1) == 1
    plain = upright and (photographic or is_measured_tiff(file))
    return Kind('GTiff', upright, plain)


@contextmanager
def _open_dataset(path: str, kind: Kind) -> Iterator[Any]:
    """Open a file with rasterio if that is of use, or else yield None."""
    if kind.driver is None or not (kind.plain or kind.driver == 'GTiff'):
        yield None
        return
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        if kind.driver == 'GTiff':
            use_file(path, _require_no_georeference)
        yield None
        return
    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        try:
            dataset = rasterio.open(path, driver=kind.driver)
        except RasterioError as error:
            raise ConfigError(f"cannot load the image '{path}': {error}") from None
        with dataset:
            yield dataset


def _require_no_georeference(file: BinaryIO) -> None:
    tags = read_tags(file)
    for numbers, what in (
        (GEOREFERENCE, 'georeference'),
        ((NO_DATA,), 'no-data value'),
    ):
        if any(number in tags for number in numbers):
            raise ConfigError(
                f'it has a {what}, which only the package rasterio can read: '
                f'{NEEDS_RASTERIO}'
            )


def _map(path: str) -> np.ndarray | None:
    """Map an uncompressed TIFF into the memory, or return None."""
    try:
        import tifffile
    except ImportError:
        return None
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        if series.dataoffset is None or not series.keyframe.is_memmappable:
            return None
        axes = series.axes
    return channels_last(tifffile.memmap(path, series=0, mode='r'), axes)


def _decode(path: str) -> np.ndarray:
    with pillow_without_limit():
        info = image_info(path)
        needed = (
            info.height * info.width * info.channels * np.dtype(info.dtype).itemsize
        )
        available = _available_memory()
        if available is not None and COPIES * needed > available:
            raise ConfigError(
                f"the image '{path}' has {info.height} x {info.width} pixels, and "
                f'decoding it takes up to {COPIES * needed / 1e9:.1f} GB of memory, '
                f'but {available / 1e9:.1f} GB are free: convert it to a TIFF, which '
                'is read by window (gdal_translate -co TILED=YES -co '
                f'COMPRESS=DEFLATE), and {NEEDS_RASTERIO}'
            )
        return read_image(path)


def _available_memory() -> int | None:
    """Return the free bytes of memory, or None if the system does not say."""
    if not os.path.isfile('/proc/meminfo'):
        return None
    text = Path('/proc/meminfo').read_text()
    found = re.search(r'MemAvailable:\s+(\d+) kB', text)
    return int(found[1]) * 1024 if found else None
