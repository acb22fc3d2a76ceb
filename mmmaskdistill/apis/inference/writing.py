"""Write files completely or not at all: label maps and other pictures."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


@contextmanager
def written(path: str | os.PathLike) -> Iterator[Path]:
    """Give a name under which a file or a folder is written before it is complete.

    Args:
        path (str | PathLike): The file or folder; the folder around it is created.

    Yields:
        Path: The name to write to, which has the same ending. After the ``with``
        statement it becomes ``path``; if an error is raised, it is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.part{path.suffix}')
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            _remove(path)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_labels(
    labels: np.ndarray,
    path: str | os.PathLike,
    palette: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write a label map as a PNG file, completely or not at all.

    The value of a pixel is the number of its class. Labels of 8 bits become a picture
    with a palette, so that viewers show the colors of the classes and readers of labels
    get the numbers. PNG has no palettes of more than 256 colors, so labels of 16 bits
    become a gray picture of 16 bits.

    Args:
        labels (ndarray): [H, W] uint8 or uint16.
        path (str | PathLike): The file; its folder is created.
        palette (Sequence[Sequence[int]], optional): RGB color of each class, 0 to 255.
            Values without a color are black. Defaults to None, shades of gray.
    """
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8 and palette is not None:
        image.putpalette(np.asarray(palette[:256], np.uint8).tobytes())
    write_picture(image, path, compress_level=3)


def write_picture(image: Image.Image, path: str | os.PathLike, **options) -> None:
    """Write a picture, completely or not at all.

    Args:
        image (PIL.Image.Image): The picture.
        path (str | PathLike): The file, whose ending tells the format; its folder is
            created.
        **options: Options of the format.
    """
    with written(path) as temporary:
        image.save(temporary, **options)
