"""Predict files, and write what was predicted."""

import csv
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mmmaskdistill.compat.atomic_files import open_atomically
from mmmaskdistill.datasets.image_files import UnreadableImage
from mmmaskdistill.errors import ConfigError, first_few, first_line

from .files import InputFile
from .loaded_model import LoadedModel
from .rasters import is_georeferenced
from .results import Classification, Segmentation
from .tiling import check_model, predict_large
from .videos import Video, VideoWriter
from .writing import write_labels, write_picture, written

# What can be written for a segmentation, and the endings of the files.
ENDINGS = dict(labels='.png', overlay='.jpg', probabilities='.npy')
EXISTING = ('error', 'skip', 'overwrite')
# What is written for all images together.
CLASSES, TABLE, SCORES = 'classes.json', 'predictions.csv', 'predictions.json'
TOP = 5

# Is called with the number of images so far, also those of videos. It has a fraction
# while the tiles of an image are computed.
Progress = Callable[[float], None]


class Options(NamedTuple):
    """How files are predicted and what is written.

    Attributes:
        out (str): Folder to write to.
        save (Sequence[str]): What to write, of ``labels``, ``overlay`` and
            ``probabilities``.
        batch_size (int): Number of images that are computed together.
        tta (bool): Whether to average over test-time augmentations.
        amp (bool): Whether to compute in mixed precision.
        opacity (float): Opacity of the colors in an overlay, 0 to 1.
        existing (str): What to do if a file is already there: ``'error'``, ``'skip'``
            the image, or ``'overwrite'``.
        tile (float | None): Resolution at which large pictures are segmented in tiles,
            relative to their own, see :func:`.tiling.predict_large`; or None.
        tile_batch (int | None): Number of tiles that are computed together. None
            chooses it by the memory.
    """

    out: str
    save: Sequence[str] = ('labels', 'overlay')
    batch_size: int = 1
    tta: bool = False
    amp: bool = False
    opacity: float = 0.5
    existing: str = 'error'
    tile: float | None = None
    tile_batch: int | None = None


class Summary(NamedTuple):
    """What became of the files.

    Attributes:
        images (int): Number of images that were predicted, also those of videos.
        seconds (float): How long that took.
        skipped (int): Number of files for which everything was there already.
        broken (list[str]): Why each of the other files was not predicted.
    """

    images: int
    seconds: float
    skipped: int
    broken: list[str]


def predict_files(
    model: LoadedModel,
    files: Sequence[InputFile],
    options: Options,
    progress: Progress = lambda count: None,
    report: Callable[[str], None] = lambda message: None,
) -> Summary:
    """Predict images and videos, and write what was predicted.

    A segmentor writes ``labels/NAME.png``, ``overlay/NAME.jpg`` and
    ``probabilities/NAME.npy`` ([C, H, W] float16) for each image and ``classes.json``
    for all, a classifier ``predictions.csv`` and ``predictions.json``. Of a video, the
    overlay is ``overlay/NAME.mp4``, and the rest gets a folder NAME with a file for
    each picture. Files are written completely or not at all. Images that cannot be read
    are left out. Memory does not grow with the number of images.

    Args:
        model (LoadedModel): The model.
        files (Sequence[InputFile]): The files.
        options (Options): How they are predicted and what is written.
        progress (Callable): See :data:`Progress`. Defaults to nothing.
        report (Callable): Is called with the reason for each file that is left out, at
            once. Defaults to nothing.

    Returns:
        Summary: What became of the files.

    Raises:
        ConfigError: If the model predicts neither classes of pixels nor of images, or
            files to write are already there.
    """
    if model.task == 'pretraining':
        raise ConfigError(
            'the checkpoint is of pre-training and predicts no classes: write its '
            'features with tools/embed.py, or fine-tune a model from it'
        )
    if model.task == 'segmentation':
        writer = _SegmentationWriter(model, options)
    else:
        writer = _ClassificationWriter(model, options)
    if options.tile is not None:
        _check_tiles(model, files, options)
    left = writer.left(files)
    run = _Run(model, options, writer, progress, report)
    start = time.perf_counter()
    with writer:
        for is_video, group in groupby(left, lambda file: file.is_video):
            if is_video:
                for file in group:
                    run.predict_video(file)
            elif options.tile is not None:
                for file in group:
                    run.predict_tiles(file)
            else:
                run.predict_images(list(group))
    seconds = time.perf_counter() - start
    return Summary(run.images, seconds, len(files) - len(left), run.broken)


class _Run:
    """The state of :func:`predict_files`."""

    def __init__(
        self,
        model: LoadedModel,
        options: Options,
        writer: Any,
        progress: Progress,
        report: Callable[[str], None],
    ):
        self.model, self.writer, self.options = model, writer, options
        self.progress, self.report = progress, report
        self.images, self.broken = 0, []
        self.settings = dict(
            batch_size=options.batch_size,
            tta=options.tta,
            amp=options.amp,
            probabilities='probabilities' in options.save,
        )

    def predict_images(self, files: list[InputFile]):
        paths = [file.path for file in files]
        results = self.model.stream(paths, skip=self._leave_out, **self.settings)
        for file, result in zip(files, results):
            if result is None:
                continue
            try:
                self.writer.write(file, result)
            except UnreadableImage as error:  # It was there a moment ago.
                self._leave_out(file.path, error)
            else:
                self._count()

    def predict_tiles(self, file: InputFile):
        done, options = self.images, self.options
        try:
            predict_large(
                self.model,
                file.path,
                self.writer._target('labels', file),
                scale=options.tile,
                tile_batch=options.tile_batch,
                amp=options.amp,
                progress=lambda tiles, of: self.progress(done + tiles / of),
            )
        except torch.OutOfMemoryError:
            raise
        except ConfigError as error:
            self._leave_out(file.path, error)
        except (RuntimeError, ValueError, AssertionError) as error:
            message = f"the model fails on the tiles of '{file.path}': "
            message += f'{type(error).__name__}: {first_line(error)}'
            self._leave_out(file.path, ConfigError(message))
        else:
            self._count()

    def predict_video(self, file: InputFile):
        try:
            video = Video(file.path)
            times = deque()
            results = self.model.stream(_images(video, times), **self.settings)
            with self.writer.video(file, video) as write:
                for result in results:
                    write(result, times.popleft())
                    self._count()
        except ConfigError as error:
            self._leave_out(file.path, error)

    def _count(self):
        self.images += 1
        self.progress(self.images)

    def _leave_out(self, path: str, error: ConfigError):
        message = ' '.join(str(error).split())
        self.broken.append(message)
        self.report(message)


def _images(video: Video, times: deque) -> Iterator[np.ndarray]:
    for frame in video:
        times.append(frame.time)
        yield frame.image


class _SegmentationWriter:
    """Writes label maps, overlays and probabilities."""

    def __init__(self, model: LoadedModel, options: Options):
        self.model, self.options = model, options
        self.out = Path(options.out)
        self.content = dict(
            classes=list(model.classes or map(str, range(model.num_classes))),
            palette=model.palette,
        )

    def left(self, files: Sequence[InputFile]) -> list[InputFile]:
        """Return the files for which something is yet to be written."""
        if self.options.existing == 'overwrite':
            return list(files)
        self._check_classes()
        there = {}
        for file in files:
            targets = [self._target(kind, file) for kind in self.options.save]
            there[file] = [target for target in targets if target.exists()]
        found = [str(target) for targets in there.values() for target in targets]
        if found and self.options.existing == 'error':
            raise _already_there(found)
        return [file for file in files if len(there[file]) < len(self.options.save)]

    def _check_classes(self):
        """Check that the classes of label maps that are there already stay the same."""
        path = self.out / CLASSES
        try:
            same = json.loads(path.read_text(encoding='utf-8')) == self.content
        except FileNotFoundError:
            return
        except ValueError:
            same = False
        if not same:
            raise ConfigError(
                f'{str(path)!r} has other classes or colors than the model, and '
                'describes what was predicted before: give another --out, or '
                '--existing overwrite'
            )

    def __enter__(self):
        self.out.mkdir(parents=True, exist_ok=True)
        with open_atomically(self.out / CLASSES, 'w', encoding='utf-8') as file:
            json.dump(self.content, file, ensure_ascii=False)

    def __exit__(self, *args):
        pass

    def write(self, file: InputFile, result: Segmentation, kinds: Any = None):
        for kind in self.options.save if kinds is None else kinds:
            self._write(kind, self._target(kind, file), result)

    def video(self, file: InputFile, video: Video) -> Any:
        return _VideoFrames(self, file, video)

    def _target(self, kind: str, file: InputFile) -> Path:
        ending = ENDINGS[kind]
        if self.options.tile is not None and is_georeferenced(file.path):
            ending = '.tif'
        if file.is_video:
            ending = '.mp4' if kind == 'overlay' else ''
        return self.out / kind / (file.name + ending)

    def _write(self, kind: str, path: Path, result: Segmentation):
        if kind == 'labels':
            write_labels(result.labels, path, result.palette)
        elif kind == 'overlay':
            picture = Image.fromarray(result.overlay(self.options.opacity))
            # Subsampled colors would blur the borders of the classes.
            write_picture(picture, path, quality=90, subsampling=0)
        else:
            with written(path) as temporary:
                np.save(temporary, result.probabilities.astype(np.float16))


class _VideoFrames(ExitStack):
    """Writes what was predicted for the pictures of a video."""

    def __init__(self, writer: _SegmentationWriter, file: InputFile, video: Video):
        super().__init__()
        self.writer, self.number = writer, 0
        self.targets = {
            kind: writer._target(kind, file) for kind in writer.options.save
        }
        self.overlay = None
        if 'overlay' in self.targets:
            target = self.targets.pop('overlay')
            self.overlay = self.enter_context(VideoWriter(target, video))
        for kind, target in self.targets.items():
            folder = self.enter_context(written(target))
            folder.mkdir()
            self.targets[kind] = folder

    def __enter__(self):
        super().__enter__()
        return self.write

    def write(self, result: Segmentation, shown: int | None):
        self.number += 1
        if self.overlay:
            opacity = self.writer.options.opacity
            self.overlay.write(result.overlay(opacity), shown)
        for kind, folder in self.targets.items():
            path = folder / f'{self.number:06}{ENDINGS[kind]}'
            self.writer._write(kind, path, result)


class _ClassificationWriter(ExitStack):
    """Writes a table and a JSON file of classes and scores."""

    def __init__(self, model: LoadedModel, options: Options):
        super().__init__()
        self.model, self.options = model, options
        self.paths = [Path(options.out, name) for name in (TABLE, SCORES)]

    def left(self, files: Sequence[InputFile]) -> list[InputFile]:
        """Return all files, since all of them get into the same table."""
        found = [str(path) for path in self.paths if path.exists()]
        if found and self.options.existing == 'error':
            raise _already_there(found)
        if found and self.options.existing == 'skip':
            return []
        return list(files)

    def __enter__(self):
        super().__enter__()
        Path(self.options.out).mkdir(parents=True, exist_ok=True)
        # Names of files that are not UTF-8 are written with escapes.
        how = dict(encoding='utf-8', errors='backslashreplace', newline='')
        table, scores = (
            self.enter_context(open_atomically(path, 'w', **how)) for path in self.paths
        )
        columns = ['image', 'class', 'label', 'score']
        count = min(TOP, self.model.num_classes or TOP)
        for place in range(2, count + 1):
            columns += [f'class_{place}', f'score_{place}']
        self.table = csv.writer(table)
        self.table.writerow(columns)
        self.scores, self.separator = scores, '\n'
        head = json.dumps(dict(classes=self.model.classes), ensure_ascii=False)
        self.scores.write(head[:-1] + ', "images": [')

    def __exit__(self, *args):
        if args[0] is None:
            self.scores.write('\n]}\n')
        return super().__exit__(*args)

    def write(self, file: InputFile, result: Classification, name: str | None = None):
        name = name or file.path
        top = result.top(TOP)
        (first, score), *others = top
        row = [name, first, result.label, f'{score:.6f}']
        for other, score in others:
            row += [other, f'{score:.6f}']
        self.table.writerow(row)
        content = dict(image=name, label=result.label, top=top)
        content['class'] = first
        if 'probabilities' in self.options.save:
            content['scores'] = [round(float(score), 6) for score in result.scores]
        self.scores.write(self.separator + json.dumps(content, ensure_ascii=False))
        self.separator = ',\n'

    def video(self, file: InputFile, video: Video) -> Any:
        return _VideoRows(self, file)


class _VideoRows:
    def __init__(self, writer: _ClassificationWriter, file: InputFile):
        self.writer, self.file, self.number = writer, file, 0

    def __enter__(self):
        return self.write

    def __exit__(self, *args):
        pass

    def write(self, result: Classification, shown: int | None):
        self.number += 1
        self.writer.write(self.file, result, f'{self.file.path}#{self.number}')


def _check_tiles(
    model: LoadedModel, files: Sequence[InputFile], options: Options
) -> None:
    """Check that files can be predicted in tiles.

    Raises:
        ConfigError: If the model is no segmentor, anything but labels is to be written,
            or a file is a video.
    """
    if list(options.save) != ['labels'] or options.tta:
        raise ConfigError(
            f'save={list(options.save)}, tta={options.tta}: with tiles, expected '
            "save=['labels'] and no test-time augmentation"
        )
    videos = [repr(file.path) for file in files if file.is_video]
    if videos:
        raise ConfigError(
            f'{first_few(videos)} are videos: expected pictures, which alone are '
            'segmented in tiles'
        )
    check_model(model)


def _already_there(found: list[str]) -> ConfigError:
    return ConfigError(
        f'{len(found)} files to write are already there, such as '
        f'{first_few([repr(path) for path in found], 1)}: give another --out, or '
        '--existing skip to predict only what is missing, or --existing overwrite'
    )
