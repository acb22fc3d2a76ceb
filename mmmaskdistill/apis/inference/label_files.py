"""Write label maps of large pictures, by rows."""

import json
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmmaskdistill.errors import ConfigError

from .rasters import CACHE, NEEDS_RASTERIO, Georeference
from .writing import written

ENDINGS = ('.png', '.tif', '.tiff')
WHITE = (255, 255, 255)
# Pixels that are copied at a time.
PIXELS = 2**24


def label_type(classes: int) -> tuple[np.dtype, int]:
    """Return the type of a label map's values, and the value of ignored pixels.

    Args:
        classes (int): Number of classes.

    Returns:
        tuple[np.dtype, int]: uint8 and 255, or uint16 and 65535 above 255 classes.
    """
    dtype = np.dtype(np.uint8 if classes <= 255 else np.uint16)
    return dtype, int(np.iinfo(dtype).max)


class Spool:
    """A label map in a temporary file, which is written in blocks and read by rows.

    The file is deleted when the ``with`` statement ends.

    Args:
        folder (str | Path): Folder of the file.
        height (int): Height in pixels.
        width (int): Width in pixels.
        dtype (np.dtype): Type of the values.
    """

    def __init__(self, folder: str | Path, height: int, width: int, dtype: np.dtype):
        self.height, self.width, self.dtype = height, width, np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._file.truncate(height * width * self.dtype.itemsize)

    def __enter__(self) -> 'Spool':
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def write(self, row: int, column: int, block: np.ndarray) -> None:
        """Write a block.

        Args:
            row (int): First row of the block.
            column (int): First column of the block.
            block (ndarray): Labels [h, w].
        """
        block = np.ascontiguousarray(block, self.dtype)
        if block.shape[1] == self.width:
            block = block.reshape(1, -1)
        for k, line in enumerate(block):
            self._file.seek(((row + k) * self.width + column) * self.dtype.itemsize)
            content = memoryview(line).cast('B')
            while content:
                content = content[self._file.write(content) :]

    def rows(self) -> Iterator[np.ndarray]:
        """Read all rows, some at a time.

        Yields:
            ndarray: Labels [n, width].
        """
        self._file.seek(0)
        step = max(1, PIXELS // self.width)
        for row in range(0, self.height, step):
            count = min(step, self.height - row) * self.width
            labels = np.fromfile(self._file, self.dtype, count)
            yield labels.reshape(-1, self.width)


def check_output(path: str | Path) -> None:
    """Check that a label map can be written to a file of this name.

    Args:
        path (str | Path): The file.

    Raises:
        ConfigError: If its ending is none of :data:`ENDINGS`, or if it is a TIFF and
            ``rasterio`` is not installed.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(
            f"cannot write the label map '{path}': expected a name that ends in "
            f'{", ".join(ENDINGS)}'
        )
    if ending != '.png':
        try:
            import rasterio  # noqa: F401
        except ImportError:
            raise ConfigError(
                f"cannot write the label map '{path}': the package rasterio is not "
                f'installed. Write a .png instead, or {NEEDS_RASTERIO}'
            ) from None


def write_rows(
    path: str | Path,
    rows: Iterable[np.ndarray],
    height: int,
    width: int,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    georeference: Georeference | None = None,
) -> None:
    """Write a label map to a PNG or TIFF file.

    The file has 8 bits, and the palette of the classes, in which the value of ignored
    pixels is white; or 16 bits and no palette if there are more than 255 classes. The
    names of the classes are in the tag ``classes`` of a TIFF, as a list in JSON.

    The file is complete or not there: it gets its name at the end.

    Args:
        path (str | Path): The file, whose ending is one of :data:`ENDINGS`.
        rows (Iterable[ndarray]): Labels [n, width], some rows at a time.
        height (int): Height in pixels.
        width (int): Width in pixels.
        classes (Sequence[str]): Names of the classes.
        palette (Sequence[Sequence[int]], optional): Red, green and blue of each class.
            Defaults to None, which writes gray values.
        georeference (Georeference, optional): Place on the earth, for a TIFF. Defaults
            to None.

    Raises:
        ConfigError: See :func:`check_output`.
    """
    check_output(path)
    dtype, ignored = label_type(len(classes))
    if dtype != np.uint8:
        palette = None
    if palette is not None:
        palette = [tuple(map(int, color)) for color in palette][: len(classes)]
        palette += [WHITE] * (ignored + 1 - len(palette))
    with written(path) as unfinished:
        if unfinished.suffix.lower() == '.png':
            _write_png(unfinished, rows, height, width, dtype, palette)
        else:
            options = dict(nodata=ignored, dtype=dtype.name)
            _write_tiff(
                unfinished, rows, height, width, options, classes, palette, georeference
            )


def _write_png(
    path: Path,
    rows: Iterable[np.ndarray],
    height: int,
    width: int,
    dtype: np.dtype,
    palette: list[tuple] | None,
):
    """Write a PNG whose rows are never in memory at once, which Pillow cannot."""

    def chunk(kind: bytes, content: bytes):
        file.write(struct.pack('>I', len(content)) + kind + content)
        file.write(struct.pack('>I', zlib.crc32(kind + content)))

    color = 0 if palette is None else 3
    with open(path, 'wb') as file:
        file.write(b'\x89PNG\r\n\x1a\n')
        bits = 8 * dtype.itemsize
        chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0))
        if palette is not None:
            chunk(b'PLTE', np.array(palette, np.uint8).tobytes())
        compressor = zlib.compressobj()
        for part in rows:
            values = part.astype(dtype.newbyteorder('>')).view(np.uint8)
            # Before each row stands a zero: its values are stored as they are.
            lines = np.pad(values, ((0, 0), (1, 0)))
            content = compressor.compress(lines)
            if content:
                chunk(b'IDAT', content)
        chunk(b'IDAT', compressor.flush())
        chunk(b'IEND', b'')


def _write_tiff(
    path: Path,
    rows: Iterable[np.ndarray],
    height: int,
    width: int,
    options: dict,
    classes: Sequence[str],
    palette: list[tuple] | None,
    georeference: Georeference | None,
):
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    if georeference is not None:
        gcps, gcps_crs = georeference.gcps
        options.update(crs=georeference.crs, transform=georeference.transform)
        if gcps:
            options.update(gcps=gcps, crs=gcps_crs)
            del options['transform']
        if georeference.rpcs:
            options.update(rpcs=georeference.rpcs)
    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
            path,
            'w',
            driver='GTiff',
            height=height,
            width=width,
            count=1,
            tiled=True,
            blockxsize=256,
            blockysize=256,
            compress='deflate',
            bigtiff='if_safer',
            **options,
        ) as dataset:
            if palette is not None:
                dataset.write_colormap(1, dict(enumerate(palette)))
            dataset.update_tags(classes=json.dumps(list(classes), ensure_ascii=False))
            row = 0
            for part in rows:
                window = Window(0, row, width, len(part))
                dataset.write(part, 1, window=window)
                row += len(part)
