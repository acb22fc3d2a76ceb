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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from PIL import ExifTags, Image

from mmmaskdistill.datasets import image_files
from mmmaskdistill.errors import ConfigError, first_few, first_line

# Files that a process gets at once, so that it is not called for each file.
CHUNK = 32
TIFF_ENDINGS = ('.tif', '.tiff')
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
        mean (tuple[float, ...]): Mean of each channel, in the file's order. Like the
            next three, it is empty if the image was not decoded.
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
    mean: tuple = ()
    std: tuple = ()
    low: tuple = ()
    high: tuple = ()
    error: str = ''

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


@dataclass
class LabelFile:
    """What a label file holds.

    Attributes:
        path (str): The path.
        width (int): Width in pixels.
        height (int): Height in pixels.
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
    kind = 'image' if decode else 'header'
    read = read_image if decode else read_header
    found = in_processes(read, files, kind, workers, cache, progress)
    return [ImageFile(**{k: _tuple(v) for k, v in part.items()}) for part in found]


def inspect_labels(
    files: Sequence[str | Path],
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LabelFile]:
    """Read label files and count the pixels of each value.

    Args:
        files (Sequence[str | Path]): Their paths.
        workers (int, optional): See :func:`inspect_images`.
        cache (str | Path, optional): See :func:`inspect_images`.
        progress (Callable, optional): See :func:`inspect_images`.

    Returns:
        list[LabelFile]: One for each file, in their order.
    """
    found = in_processes(read_label, files, 'label', workers, cache, progress)
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
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
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


def _one_thread() -> None:
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
        return asdict(_tiff_header(path) or _pillow_header(path))
    except Exception as error:
        # Pillow does not know images of other than 1, 3 or 4 channels, for example.
        found = read_image(path)
        if found['error']:
            found['error'] = _reason(path, error)
        return dict(found, mean=(), std=(), low=(), high=())


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
        turned = _turned(path) if kind == 'JPEG' else False
    except Exception as error:
        return asdict(ImageFile(path, error=_reason(path, error)))
    height, width = pixels.shape[:2]
    if turned:
        height, width = width, height
    return asdict(
        ImageFile(
            path,
            width,
            height,
            pixels.shape[2] if pixels.ndim == 3 else 1,
            str(pixels.dtype),
            kind,
            *_measure(pixels),
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
    if path.lower().endswith(TIFF_ENDINGS):
        return dict(read_image(path), mean=(), std=(), low=(), high=())
    try:
        found = _pillow_header(path)
        with Image.open(path) as image:
            # A JPEG is read to its end, but its pixels are computed at an eighth of
            # its size, which takes half of the time. Other formats ignore it.
            image.draft('RGB', (image.width // 8, image.height // 8))
            image.load()
        return asdict(found)
    except Exception:
        return dict(read_image(path), mean=(), std=(), low=(), high=())


def read_label(path: str | Path) -> dict:
    """Decode a label and count its values.

    Args:
        path (str | Path): The path.

    Returns:
        dict: The fields of :class:`LabelFile`. ``values`` is a list of pairs (value,
        number of pixels), since JSON has no other keys than strings.
    """
    path = str(path)
    found = LabelFile(path)
    try:
        with Image.open(path) as image:
            found.mode, found.format = image.mode, image.format or ''
            pixels = np.asarray(image)
    except Exception as error:
        try:
            pixels, found.format = _decode(path)
            found.mode = str(pixels.dtype)
        except Exception:
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


def _pillow_header(path: str) -> ImageFile:
    with Image.open(path) as image:
        width, height = image.size
        if (
            image.format == 'JPEG'
            and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
        ):
            width, height = height, width
        mode = image.mode
        dtype = {'F': 'float32', 'I': 'int32', '1': 'bool'}.get(mode, 'uint8')
        if mode.startswith('I;16'):
            dtype = 'uint16'
        channels = 3 if mode == 'P' else len(image.getbands())
        return ImageFile(path, width, height, channels, dtype, image.format or '')


def _tiff_header(path: str) -> ImageFile | None:
    """Read the header of a TIFF as ``LoadImage`` does, for any types and channels.

    Returns:
        ImageFile | None: None for other files, and if the file cannot be read so.
    """
    if not path.lower().endswith(TIFF_ENDINGS):
        return None
    try:
        info = image_files.image_info(path)
    except ConfigError:
        return None
    return ImageFile(
        path, info.width, info.height, info.channels, info.dtype, info.format
    )


def _measure(pixels: np.ndarray) -> tuple[tuple, ...]:
    """Compute mean, standard deviation, lowest and highest value of each channel."""
    flat = pixels.reshape(pixels.shape[0] * pixels.shape[1], -1)
    if pixels.dtype != np.uint8:
        wide = flat.astype(np.float64)
        parts = wide.mean(0), wide.std(0), wide.min(0), wide.max(0)
        return tuple(tuple(map(float, part)) for part in parts)
    # All four follow from the histogram, which is quickly computed.
    values, channels = np.arange(256.0), []
    for k in range(flat.shape[1]):
        counts = cv2.calcHist([pixels], [k], None, [256], [0, 256]).ravel()
        share = counts.astype(np.float64) / counts.sum(dtype=np.float64)
        mean = float(share @ values)
        std = float(np.sqrt(share @ (values - mean) ** 2))
        present = counts.nonzero()[0]
        channels.append((mean, std, float(present[0]), float(present[-1])))
    return tuple(zip(*channels))


def _turned(path: str) -> bool:
    """Tell whether the EXIF orientation of a file exchanges width and height."""
    with Image.open(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) > 4


def _decode(path: str) -> tuple[np.ndarray, str]:
    """Decode all channels of an image, in the file's order."""
    if path.lower().endswith(TIFF_ENDINGS):
        try:
            return image_files.read_image(path), 'TIFF'
        except ConfigError:  # Pillow may know more, and says why it does not.
            pass
    try:
        with Image.open(path) as image:
            kind = image.format or ''
            if image.mode == 'P':
                image = image.convert('RGB')
            return np.asarray(image), kind
    except Exception:
        pixels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        # OpenCV fills the rest of a damaged JPEG with gray, so it decides nothing.
        if pixels is None or path.lower().endswith(('.jpg', '.jpeg', '.png')):
            raise
        if pixels.ndim == 3 and pixels.shape[2] >= 3:
            pixels[..., :3] = pixels[..., 2::-1].copy()
        return pixels, Path(path).suffix.lstrip('.').upper()


def _reason(path: str, error: Exception) -> str:
    if not os.path.isfile(path):
        return 'the file does not exist'
    if not os.path.getsize(path):
        return 'the file is empty'
    return first_line(error).replace(f" '{path}'", '')


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def mean_and_std(images: Iterable[ImageFile]) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel over all pixels.

    Args:
        images (Iterable[ImageFile]): Decoded images. Unreadable ones are left out, and
            so are images whose number of channels is not the most frequent one.

    Returns:
        tuple[list[float], list[float]]: Mean and standard deviation of each channel,
        empty if no image is left.
    """
    images = [image for image in images if image.mean]
    if not images:
        return [], []
    ((channels, _),) = Counter(len(image.mean) for image in images).most_common(1)
    images = [image for image in images if len(image.mean) == channels]
    weights = np.array([image.width * image.height for image in images], float)
    weights /= weights.sum()
    means = np.array([image.mean for image in images])
    squares = np.array([image.std for image in images]) ** 2 + means**2
    mean = weights @ means
    std = np.sqrt(np.maximum(weights @ squares - mean**2, 0))
    return mean.tolist(), std.tolist()


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
