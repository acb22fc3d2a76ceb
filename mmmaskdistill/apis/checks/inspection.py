"""Read the files of images and labels: sizes, types, values, and what is unreadable.

The files can be read by several processes. With a cache, a file that has not changed
since the last time is not read again.
"""

import json
import os
import pickle
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from PIL import Image

from mmmaskdistill.datasets import image_files
from mmmaskdistill.datasets.channels import (
    ImageStatistics,
    join_statistics,
    measure_image,
)
from mmmaskdistill.datasets.label_maps import read_values
from mmmaskdistill.errors import first_few

# Files that a process gets at once, so that it is not called for each file.
CHUNK = 32
# A photograph that is taken for a label has a different color in nearly every pixel.
MOST_COLORS = 4096


@dataclass
class ImageFile:
    """What an image file holds.

    Attributes:
        path (str): The path.
        width (int): Width in pixels, turned as the file's EXIF orientation says.
        height (int): Height in pixels, likewise.
        channels (int): Number of channels.
        dtype (str): Type of the values, such as ``'uint8'``.
        format (str): Such as ``'JPEG'``, ``'PNG'`` or ``'TIFF'``.
        count (tuple[int, ...]): Number of values of each channel that are numbers. Like
            the next four, it is in the file's order of the channels, and empty if the
            image was not decoded.
        mean (tuple[float, ...]): Mean of each channel.
        std (tuple[float, ...]): Standard deviation of each channel.
        low (tuple[float, ...]): Lowest value of each channel.
        high (tuple[float, ...]): Highest value of each channel.
        error (str): Why the file cannot be read. Empty if it can.
    """

    path: str
    width: int = 0
    height: int = 0
    channels: int = 0
    dtype: str = ''
    format: str = ''
    count: tuple = ()
    mean: tuple = ()
    std: tuple = ()
    low: tuple = ()
    high: tuple = ()
    error: str = ''

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def has_gaps(self) -> bool:
        """Whether some values are NaN or infinite."""
        return any(count < self.width * self.height for count in self.count)


@dataclass
class LabelFile:
    """What a label file holds.

    Attributes:
        path (str): The path.
        width (int): Width in pixels, turned as the file's EXIF orientation says.
        height (int): Height in pixels, likewise.
        mode (str): Pillow's name of the pixel type, such as ``'L'``, ``'P'`` (with a
            palette), ``'I;16'`` or ``'RGB'``.
        format (str): Such as ``'PNG'``.
        values (dict): Number of pixels of each value. The keys are integers, or
            tuples (red, green, blue) of a color label, of which at most 4096 are
            kept.
        error (str): Why the file cannot be read. Empty if it can.
    """

    path: str
    width: int = 0
    height: int = 0
    mode: str = ''
    format: str = ''
    values: dict = field(default_factory=dict)
    error: str = ''

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def colored(self) -> bool:
        """Whether the values are colors."""
        return any(isinstance(value, tuple) for value in self.values)


class ProgressLine:
    """A line on the terminal with the number of files, their rate and the time left.

    Outside a terminal, a line is printed every ten seconds.

    Args:
        what (str): Name of what is counted, such as ``'images'``.
        stream (TextIO, optional): Where to print. Defaults to None, standard error.
    """

    def __init__(self, what: str, stream: TextIO | None = None):
        self.what = what
        self.stream = stream or sys.stderr
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Print how far the work is.

        Args:
            done (int): Number of files that are done.
            total (int): Number of all files.
        """
        now, terminal = time.monotonic(), self.stream.isatty()
        if done < total and now - self.last < (0.2 if terminal else 10):
            return
        self.last = now
        rate = done / max(now - self.start, 1e-3)
        left = (total - done) / max(rate, 1e-3)
        text = (
            f'{done} of {total} {self.what}, {rate:.0f} a second, '
            f'{int(left // 60)}:{int(left % 60):02} left'
        )
        if terminal:
            end = '\n' if done == total else ''
            print(f'\r{text:<78}', end=end, file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)


def inspect_images(
    files: Sequence[str | Path],
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    decode: bool = True,
) -> list[ImageFile]:
    """Read image files.

    Args:
        files (Sequence[str | Path]): Their paths.
        workers (int, optional): Number of processes. Defaults to None, one for each
            core that this process may use. With 0 or 1, this process reads the files.
        cache (str | Path, optional): JSON file with results of earlier calls, which is
            read and written. Defaults to None.
        progress (Callable, optional): Called with the number of files that are done
            and the number of all files. Defaults to None.
        decode (bool): Whether to decode the pixels, which finds damaged files and
            measures the channels. Otherwise only the header is read. Defaults to True.

    Returns:
        list[ImageFile]: One for each file, in their order.
    """
    kind = 'image values' if decode else 'header'
    read = read_image if decode else read_header
    found = in_processes(read, files, kind, workers, cache, progress)
    return [ImageFile(**{k: _tuple(v) for k, v in part.items()}) for part in found]


def inspect_labels(
    files: Sequence[str | Path],
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    colours: bool = False,
) -> list[LabelFile]:
    """Read label files and count the pixels of each value.

    Args:
        files (Sequence[str | Path]): Their paths.
        workers (int, optional): See :func:`inspect_images`.
        cache (str | Path, optional): See :func:`inspect_images`.
        progress (Callable, optional): See :func:`inspect_images`.
        colours (bool): Whether to count the colors of a palette and not the indices
            into it. Defaults to False.

    Returns:
        list[LabelFile]: One for each file, in their order.
    """
    read = partial(read_label, colours=colours)
    kind = 'label with colors' if colours else 'label values'
    found = in_processes(read, files, kind, workers, cache, progress)
    return [
        LabelFile(**{**part, 'values': {_tuple(v): n for v, n in part['values']}})
        for part in found
    ]


def in_processes(
    work: Callable[[Any], dict],
    items: Sequence,
    kind: str,
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    paths: Callable[[Any], list[str]] = lambda item: [str(item)],
) -> list[dict]:
    """Call a function for each item, in several processes and with a cache.

    Args:
        work (Callable): The function. It returns what JSON can hold.
        items (Sequence): The items.
        kind (str): Name of the work, under which the results are cached.
        workers (int, optional): See :func:`inspect_images`.
        cache (str | Path, optional): See :func:`inspect_images`.
        progress (Callable, optional): See :func:`inspect_images`.
        paths (Callable): Returns the files of an item, whose sizes and times decide
            whether a cached result holds. Defaults to the item itself.

    Returns:
        list[dict]: The results, in the order of the items.
    """
    stored = Cache(cache)
    keys = [stored.key(kind, paths(item)) for item in items] if cache else []
    results = [stored.get(key) for key in keys] or [None] * len(items)
    missing = [i for i, result in enumerate(results) if result is None]
    done = len(items) - len(missing)
    chunks = [missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)]
    try:
        for chunk, part in _map_chunks(work, items, chunks, workers):
            for i, result in zip(chunk, part):
                results[i] = result
                if cache:
                    stored.put(keys[i], result)
            done += len(chunk)
            if progress:
                progress(done, len(items))
    finally:  # also if the user stops it
        stored.save()
    return results


def _map_chunks(
    work: Callable, items: Sequence, chunks: list[list[int]], workers: int | None
) -> Iterator[tuple[list[int], list]]:
    """Yield chunks of indices and the results of their items, in any order."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if sys.platform == 'linux' else 1
    workers = min(workers, len(chunks))
    if workers < 2 or not _can_be_sent(work):
        for chunk in chunks:
            yield chunk, _call(work, [items[i] for i in chunk])
        return
    with (
        _stopped_threads(),
        ProcessPoolExecutor(workers, initializer=_one_thread) as pool,
    ):
        futures = {
            pool.submit(_call, work, [items[i] for i in chunk]): chunk
            for chunk in chunks
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _can_be_sent(work: Callable) -> bool:
    """Tell whether a function can be sent to another process, unlike a lambda."""
    try:
        pickle.dumps(work)
    except Exception:
        return False
    return True


@contextmanager
def _stopped_threads() -> Iterator[None]:
    """Stop OpenCV's threads while processes are forked.

    A forked process has only the memory of these threads, and would wait for them
    forever when it stops them.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _one_thread() -> None:
    if cv2.getNumThreads() != 1:  # a process that was not forked
        cv2.setNumThreads(1)


def _call(work: Callable, items: list) -> list:
    return [work(item) for item in items]


class Cache:
    """Results of reading files, kept in a JSON file.

    Args:
        path (str | Path, optional): The JSON file. A file that cannot be read counts
            as empty. Defaults to None, nothing is kept.
    """

    def __init__(self, path: str | Path | None):
        self.path = Path(path) if path else None
        self.content: dict[str, list] = {}
        self.changed = False
        if self.path and self.path.is_file():
            try:
                self.content = dict(json.loads(self.path.read_text()))
            except (ValueError, TypeError, OSError):
                self.content = {}

    @staticmethod
    def key(kind: str, paths: Iterable[str]) -> tuple[str, list]:
        """Return the name of a result and the state of its files."""
        paths = [os.path.abspath(path) for path in paths]
        return '|'.join([kind, *paths]), [_state(path) for path in paths]

    def get(self, key: tuple[str, list]) -> dict | None:
        """Return a result, or None if there is none for this state of the files."""
        state, result = self.content.get(key[0], (None, None))
        return result if state == key[1] else None

    def put(self, key: tuple[str, list], result: dict) -> None:
        """Keep a result."""
        self.content[key[0]] = [key[1], result]
        self.changed = True

    def save(self) -> None:
        """Write the file, if something has changed and its folder can be written."""
        if not (self.path and self.changed):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_name(f'{self.path.name}.{os.getpid()}.tmp')
            new.write_text(json.dumps(self.content))
            os.replace(new, self.path)
        except OSError as error:
            warnings.warn(
                f"results are not kept in '{self.path}': {error}", stacklevel=2
            )


def _state(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def read_header(path: str | Path) -> dict:
    """Read size and type of an image without decoding its pixels.

    Args:
        path (str | Path): The path.

    Returns:
        dict: The fields of :class:`ImageFile`.
    """
    path = str(path)
    try:
        return asdict(_header(path))
    except Exception:
        # Other libraries may know formats that Pillow does not.
        return _without_statistics(read_image(path))


def read_image(path: str | Path) -> dict:
    """Decode an image and measure its channels.

    Args:
        path (str | Path): The path.

    Returns:
        dict: The fields of :class:`ImageFile`.
    """
    path = str(path)
    try:
        pixels, kind = _decode(path)
    except Exception as error:
        return asdict(ImageFile(path, error=_reason(path, error)))
    height, width, channels = pixels.shape
    return asdict(
        ImageFile(
            path,
            width,
            height,
            channels,
            str(pixels.dtype),
            kind,
            *measure_image(pixels),
        )
    )


def decode_image(path: str | Path) -> dict:
    """Decode an image to see whether it is damaged, without measuring it.

    Args:
        path (str | Path): The path.

    Returns:
        dict: The fields of :class:`ImageFile`.
    """
    path = str(path)
    try:
        with Image.open(path) as image:
            if image.format == 'JPEG':
                # A JPEG is read to its end, but its pixels are computed at an eighth
                # of its size, which takes half of the time.
                image.draft('RGB', (image.width // 8, image.height // 8))
                image.load()
                return asdict(_header(path))
        image_files.read_image(path)
        return asdict(_header(path))
    except Exception:
        return _without_statistics(read_image(path))


def _without_statistics(found: dict) -> dict:
    return dict(found, **dict.fromkeys(ImageStatistics._fields, ()))


def read_label(path: str | Path, colours: bool = False) -> dict:
    """Decode a label as the data sets do, and count its values.

    Args:
        path (str | Path): The path.
        colours (bool): See :func:`inspect_labels`. Defaults to False.

    Returns:
        dict: The fields of :class:`LabelFile`. ``values`` is a list of pairs (value,
        number of pixels), since JSON has no other keys than strings.
    """
    path = str(path)
    found = LabelFile(path)
    try:
        pixels = read_values(path, colours)
        try:
            with Image.open(path) as image:
                found.mode, found.format = image.mode, image.format or ''
        except Exception:  # a TIFF that Pillow does not know
            found.mode, found.format = str(pixels.dtype), 'TIFF'
    except Exception as error:
        found.error = _reason(path, error)
        return dict(asdict(found), values=[])
    found.height, found.width = pixels.shape[:2]
    return dict(asdict(found), values=count_values(pixels))


def count_values(pixels: np.ndarray) -> list:
    """Count the pixels of each value or color.

    Args:
        pixels (np.ndarray): [H, W] or [H, W, channels].

    Returns:
        list: Pairs (value, number of pixels) in ascending order. The value of several
        channels is a list.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        return _count_colors(pixels)
    if pixels.dtype == np.uint8:
        counts = cv2.calcHist([pixels], [0], None, [256], [0, 256]).ravel()
        values = counts.nonzero()[0]
        counts = counts[values]
        if pixels.size > 2**24:  # beyond it, float32 does not count exactly
            counts = np.bincount(pixels.ravel(), minlength=256)[values]
    else:
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8)
        values, counts = np.unique(pixels, return_counts=True)
    return [[v.item(), int(n)] for v, n in zip(values[:65536], counts)]


def _count_colors(pixels: np.ndarray) -> list:
    pixels = pixels[..., :3] if pixels.shape[2] > 3 else pixels
    flat = pixels.reshape(-1, pixels.shape[2])
    code = np.zeros(len(flat), np.int64)
    for channel in flat.T:
        code = code * 65536 + channel
    code, counts = np.unique(code, return_counts=True)
    order = counts.argsort(kind='stable')[::-1][:MOST_COLORS]
    count = pixels.shape[2]
    return sorted(
        [[(int(code[i]) >> 16 * k) & 65535 for k in reversed(range(count))], int(n)]
        for i, n in zip(order, counts[order])
    )


def _header(path: str) -> ImageFile:
    info = image_files.image_info(path)
    return ImageFile(
        path, info.width, info.height, info.channels, info.dtype, info.format
    )


def _decode(path: str) -> tuple[np.ndarray, str]:
    """Decode all channels [h, w, C] of an image, in the file's order."""
    try:
        return image_files.use_file(path, image_files.decode)
    except Exception:
        # OpenCV fills the rest of a damaged JPEG with gray, so it decides nothing.
        if path.lower().endswith(image_files.IMAGE_ENDINGS) or not os.path.isfile(path):
            raise
        pixels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise
        pixels = image_files.red_first(np.atleast_3d(pixels))
        return pixels, Path(path).suffix.lstrip('.').upper()


def _reason(path: str, error: Exception) -> str:
    if not os.path.isfile(path):
        return 'the file does not exist'
    if not os.path.getsize(path):
        return 'the file is empty'
    return image_files.explain(error.__cause__ or error).split('\n')[0]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def mean_and_std(images: Iterable[ImageFile]) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel over all pixels.

    Args:
        images (Iterable[ImageFile]): Decoded images. Unreadable ones are left out, and
            so are images whose number of channels is not the most frequent one.

    Returns:
        tuple[list[float], list[float]]: Mean and standard deviation of each channel,
        empty if no image is left. See :class:`ChannelStatistics`.
    """
    images = [image for image in images if image.mean]
    if not images:
        return [], []
    ((channels, _),) = Counter(len(image.mean) for image in images).most_common(1)
    found = join_statistics(
        [
            ImageStatistics(i.count, i.mean, i.std, i.low, i.high)
            for i in images
            if len(i.mean) == channels
        ]
    )
    return found.mean, found.std


def image_table(images: Sequence[ImageFile]) -> str:
    """Describe images in a table for a person.

    Args:
        images (Sequence[ImageFile]): The images.

    Returns:
        str: Several lines.
    """
    readable = [image for image in images if not image.error]
    bad = [image for image in images if image.error]
    sizes = Counter(f'{image.width} x {image.height}' for image in readable)
    rows = [
        ('images', f'{len(readable)}'),
        ('width x height', _counts(sizes)),
        ('channels', _counts(Counter(image.channels for image in readable))),
        ('values', _counts(Counter(image.dtype for image in readable))),
        ('formats', _counts(Counter(image.format for image in readable))),
    ]
    mean, std = mean_and_std(readable)
    if mean:
        rows.append(('mean', ', '.join(f'{value:.4g}' for value in mean)))
        rows.append(('std', ', '.join(f'{value:.4g}' for value in std)))
    if bad:
        rows.append(('unreadable', f'{len(bad)}'))
        rows += [('', f"'{image.path}': {image.error}") for image in bad[:10]]
        rows += [('', f'and {len(bad) - 10} more')] * (len(bad) > 10)
    return '\n'.join(f'{name:<16}{text}' for name, text in rows)


def label_table(labels: Sequence[LabelFile], names: dict | None = None) -> str:
    """Describe labels in a table for a person.

    Args:
        labels (Sequence[LabelFile]): The labels.
        names (dict, optional): Name of each value. A named value without a pixel has a
            row of its own. Defaults to None.

    Returns:
        str: Several lines.
    """
    names = names or {}
    readable = [label for label in labels if not label.error]
    bad = [label for label in labels if label.error]
    pixels, files = Counter(), Counter()
    for label in readable:
        pixels.update(label.values)
        files.update(label.values.keys())
    total = sum(pixels.values()) or 1
    lines = [
        f'{"labels":<16}{len(readable)}',
        f'{"pixel types":<16}{_counts(Counter(label.mode for label in readable))}',
        f'{"formats":<16}{_counts(Counter(label.format for label in readable))}',
    ]
    if bad:
        lines.append(f'{"unreadable":<16}{len(bad)}')
        lines += [f"{'':<16}'{label.path}': {label.error}" for label in bad[:10]]
    lines.append(f'{"value":<16}{"pixels":>10}{"files":>8}  name')
    values = sorted({*pixels, *names}, key=lambda v: (isinstance(v, tuple), v))
    for value in values[:256]:
        name = names.get(value, '' if not names else '(not a class)')
        note = '' if pixels[value] else '  <- no pixel'
        share = f'{100 * pixels[value] / total:.2f} %'
        lines.append(f'{value!s:<16}{share:>10}{files[value]:>8}  {name}{note}')
    if len(values) > 256:
        lines.append(f'and {len(values) - 256} more values')
    return '\n'.join(line.rstrip() for line in lines)


def _counts(counter: Counter) -> str:
    """Name the most frequent values, each with its count if there are several."""
    if len(counter) == 1:
        return str(next(iter(counter)))
    parts = [f'{value} ({count})' for value, count in counter.most_common()]
    return first_few(parts, 6)
