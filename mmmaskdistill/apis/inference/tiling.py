"""Segment pictures of any size in overlapping tiles, within a fixed memory.

The picture is divided into bands of columns, and each band is computed from its top to
its bottom, one row of tiles after another. Only the logits of the rows of pixels under
the current row of tiles are kept. The width of the bands follows from the memory, and
tiles on the border of two bands are computed for both.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.runner.amp import autocast
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models.segmentors.windows import compute_windows, free_memory

from ..pipelines import class_name, loads
from .axes import Axis
from .label_files import Spool, check_output, label_type, write_rows
from .preprocessing import crop_of, pair
from .rasters import Raster, open_raster

if TYPE_CHECKING:
    from .loaded_model import LoadedModel

# Bytes for the logits and pixels of a band's rows.
MEMORY = 3 * 2**29
# Values that are read, or resized, at a time.
VALUES = 2**24
LOADERS = ('LoadImageFromFile', 'StrictLoadImageFromFile', 'LoadImage')
# Steps of a test pipeline that tiles replace: they only change the size, or pack.
REPLACED = 'Resize|Pad|Pack'


@dataclass(frozen=True)
class TiledPrediction:
    """A label map that was written to a file.

    Attributes:
        file (Path): The file.
        height (int): Height of the picture and of the label map in pixels.
        width (int): Width in pixels.
        ignored (int | None): Value of pixels without data; None if there are none in
            pictures of this kind.
        tiles (int): Number of tiles that the picture has.
    """

    file: Path
    height: int
    width: int
    ignored: int | None
    tiles: int


def predict_large(
    model: 'LoadedModel',
    source: Any,
    out: str | Path,
    *,
    scale: float = 1.0,
    tile: tuple[int, int] | None = None,
    tile_batch: int | None = None,
    memory: int = MEMORY,
    amp: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TiledPrediction:
    """Segment a large picture in tiles, and write its label map.

    The picture is segmented at its own resolution times ``scale``, whatever size the
    steps of the config's test pipeline resize pictures to. The logits of overlapping
    tiles are averaged with weights that fall to the ends of each tile. The label map
    has the picture's own size.

    Args:
        model (LoadedModel): A segmentor.
        source (str | Path | ndarray | Image): See :func:`.open_raster`.
        out (str | Path): File of the label map, see :func:`.write_rows`. A TIFF has
            the georeference of the source.
        scale (float): Factor by which the picture is resized for the model, tile by
            tile. Defaults to 1.
        tile (tuple[int, int], optional): Height and width of a tile at the resolution
            of the model. Defaults to None, the size that the model was trained with,
            see :func:`tile_of`.
        tile_batch (int, optional): Number of tiles in a batch. Defaults to None, see
            :func:`.windows.compute_windows`.
        memory (int): Bytes for the logits and pixels of a band of the picture, see the
            beginning of this file; at least one tile's width is computed. The model, a
            batch of tiles, and the picture itself if its format cannot be read by
            window need memory in addition. Defaults to 1.5 GiB, and on a GPU at most to
            a quarter of its free memory.
        amp (bool): Whether to compute in mixed precision. Defaults to False.
        progress (Callable, optional): Is called with the number of tiles that are done
            and the number of all tiles. Defaults to None.

    Returns:
        TiledPrediction: What was written.

    Raises:
        UnreadableImage: If the file is missing, empty, damaged or no image.
        ConfigError: If the model is no segmentor, if its pipeline cannot be applied to
            tiles, or if a setting or the picture is not as described.
    """
    check_model(model)
    check_output(out)
    if isinstance(source, (str, os.PathLike)) and _are_same(source, out):
        raise ConfigError(
            f"the label map would overwrite the picture '{out}': give it another name"
        )
    classes = model.classes or [str(k) for k in range(model.num_classes)]
    dtype, ignored = label_type(len(classes))
    with open_raster(source) as raster:
        tiles = Tiles(
            model.model,
            raster,
            lambda values: model.preprocessing.load(values)['img'],
            scale=scale,
            tile=tile,
            tile_batch=tile_batch,
            memory=memory,
            amp=amp,
        )
        folder = Path(out).resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        with Spool(folder, raster.height, raster.width, dtype) as spool:
            for row, column, labels in tiles.label_blocks(progress):
                spool.write(row, column, labels)
            write_rows(
                out,
                _without_ignored(spool, raster, ignored),
                raster.height,
                raster.width,
                classes,
                model.palette,
                raster.georeference,
            )
    return TiledPrediction(
        Path(out),
        raster.height,
        raster.width,
        ignored if raster.has_masks else None,
        len(tiles.rows.windows) * len(tiles.columns.windows),
    )


def tile_of(model: BaseSegmentor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of a segmentor's tiles, and the stride between them.

    Args:
        model (BaseSegmentor): The segmentor.

    Returns:
        tuple[tuple[int, int], tuple[int, int]]: Height and width of a tile: the
        ``crop_size`` of ``test_cfg`` if the segmentor is tested in sliding windows, or
        else the size of its training crops, which its data preprocessor knows, or the
        ``img_size`` of its backbone. The strides are those of ``test_cfg``, but two
        thirds of a tile at most.

    Raises:
        ConfigError: If none of these is set.
    """
    backbone = getattr(model, 'backbone', None)
    tile = crop_of(model) or getattr(backbone, 'img_size', None)
    if tile is None:
        raise ConfigError(
            "the config does not say which size the model's crops have: set size of "
            "the data preprocessor, or test_cfg=dict(mode='slide', crop_size=..., "
            'stride=...)'
        )
    tile = pair(tile)
    test_cfg = model.test_cfg or {}
    stride = test_cfg['stride'] if test_cfg.get('mode') == 'slide' else tile
    return tile, tuple(min(a, _usual_stride(b)) for a, b in zip(pair(stride), tile))


class Tiles:
    """The tiles of a picture.

    Args:
        model (BaseSegmentor): The segmentor, in eval mode.
        raster (Raster): The picture.
        load (Callable): Turns a part of the picture, as the raster reads it, into what
            the config's pipeline loads: [h, w, C] to [h, w, D] or [h, w].
        scale (float): See :func:`predict_large`.
        tile (tuple[int, int], optional): See :func:`predict_large`.
        tile_batch (int, optional): See :func:`predict_large`.
        memory (int): See :func:`predict_large`.
        amp (bool): See :func:`predict_large`.

    Attributes:
        tile (tuple[int, int]): Height and width of a tile.
        rows (Axis): The rows of tiles.
        columns (Axis): The columns of tiles.

    Raises:
        ConfigError: If a setting is wrong.
    """

    def __init__(
        self,
        model: BaseSegmentor,
        raster: Raster,
        load: Callable[[np.ndarray], np.ndarray],
        *,
        scale: float = 1.0,
        tile: tuple[int, int] | None = None,
        tile_batch: int | None = None,
        memory: int = MEMORY,
        amp: bool = False,
    ):
        if not 0 < scale < math.inf:
            raise ConfigError(f'scale={scale}: expected a positive number')
        if tile_batch is not None and tile_batch < 1:
            raise ConfigError(f'tile_batch={tile_batch}: expected at least 1')
        if tile is None:
            self.tile, stride = tile_of(model)
        else:
            self.tile = pair(tile)
            if min(self.tile) < 1:
                raise ConfigError(f'tile={tile}: expected two positive numbers')
            stride = tuple(map(_usual_stride, self.tile))
        self._model, self._raster, self._load = model, raster, load
        self._device = model.data_preprocessor.device
        self._tile_batch, self._amp = tile_batch, amp
        free = free_memory(self._device)
        self._memory = memory if free is None else min(memory, free // 4)
        self.rows, self.columns = (
            Axis(size, *numbers, scale, model.align_corners)
            for size, *numbers in zip((raster.height, raster.width), self.tile, stride)
        )
        self._fill = self._no_data_value()

    @torch.no_grad()
    def label_blocks(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Compute the label map in blocks.

        Args:
            progress (Callable, optional): See :func:`predict_large`.

        Yields:
            tuple[int, int, ndarray]: The first row and the first column of a block, and
            its labels [h, w]. The blocks cover each pixel once. The labels of pixels
            without data are those of some class.
        """
        bands = [(band, self._tiles_of(band)) for band in self._bands()]
        total = len(self.rows.windows) * sum(len(columns) for _, columns in bands)
        done = 0
        for band, columns in bands:
            for blocks in self._band_blocks(band, columns):
                yield from blocks
                done += len(columns)
                if progress is not None:
                    progress(done, total)

    def _band_blocks(self, band: range, columns: list[int]) -> Iterator[Iterator]:
        """Compute the blocks of a band, those of one row of tiles after another.

        The logits of the band are not kept any longer than this lasts.
        """
        for final, logits in self._sums(band, columns):
            yield self._blocks(final, logits) if len(final.rows) else iter(())

    def _bands(self) -> list[range]:
        """Divide the columns of the label map as the memory requires."""
        height = min(self.tile[0], self.rows.length) + 1
        # A row of tiles' pixels is copied when the next rows are read.
        values = height * (self._model.out_channels + 2 * len(self._fill))
        columns = max(self._memory // (4 * values), self.tile[1])
        number = min(-(-self.columns.length // columns), self.columns.size)
        ends = [k * self.columns.size // number for k in range(number + 1)]
        return [range(*pair) for pair in pairwise(ends)]

    def _tiles_of(self, band: range) -> list[int]:
        """List the columns of tiles that a band of the label map depends on."""
        needed = self.columns.outward.needed(band.start, band.stop)
        return [
            k
            for k, tile in enumerate(self.columns.windows)
            if tile.start < needed.stop and tile.stop > needed.start
        ]

    def _sums(
        self, band: range, columns: list[int]
    ) -> Iterator[tuple['_Final', Tensor]]:
        """Add up a band's tiles, one row of them after another.

        Yields:
            tuple[_Final, Tensor]: The part of the label map whose logits are complete,
            and these logits [classes, h, w] at the resolution of the model.
        """
        outward, windows = self.rows.outward, self.rows.windows
        needed = self.columns.outward.needed(band.start, band.stop)
        tiles = [self.columns.windows[k] for k in columns]
        height = windows[0].stop + 1
        sums = torch.zeros(
            (self._model.out_channels, height, needed.stop - needed.start),
            device=self._device,
        )
        top = known = written = 0  # first row in `sums`, end of its rows, labels so far
        pixels = before = None
        for k, rows in enumerate(windows):
            pixels = self._row_of_pixels(
                rows, slice(tiles[0].start, tiles[-1].stop), pixels, before
            )
            sums[:, known - top :] = 0
            for column, logits in self._row_of_logits(k, columns, pixels):
                tile = self.columns.windows[column]
                left, right = (
                    min(max(end, needed.start), needed.stop)
                    for end in (tile.start, tile.stop)
                )
                part = slice(left - tile.start, right - tile.start)
                weights = self.rows.weights[k][:, None] * self.columns.weights[column]
                sums[
                    :,
                    rows.start - top : rows.stop - top,
                    left - needed.start : right - needed.start,
                ].addcmul_(logits[..., part], weights[:, part].to(self._device))
            end = windows[k + 1].start if k + 1 < len(windows) else rows.stop
            ready = outward.ready(end)
            final = _Final(range(written, ready), band, top, needed.start)
            yield final, sums[:, : end - top]
            # The rows that are needed again move to the top. A label map that is much
            # smaller than the logits does not need all rows.
            keep = rows.stop
            if ready < self.rows.size:
                keep = min(int(outward.first[ready]), end)
            for one in sums:
                one[: rows.stop - keep] = one[keep - top : rows.stop - top].clone()
            top, known, written, before = keep, rows.stop, ready, rows

    def _blocks(
        self, final: '_Final', logits: Tensor
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Turn logits [classes, h, w] into blocks of labels at the picture's size."""
        columns = final.columns
        step = max(1, VALUES // (len(logits) * len(columns)))
        for start in range(final.rows.start, final.rows.stop, step):
            stop = min(start + step, final.rows.stop)
            part = self.rows.outward.apply(logits, 1, start, stop, final.top)
            part = self.columns.outward.apply(
                part, 2, columns.start, columns.stop, final.left
            )
            yield start, columns.start, self._decide(part).cpu().numpy()

    def _decide(self, logits: Tensor) -> Tensor:
        """Return the class of each pixel, [h, w], from logits [classes, h, w]."""
        if len(logits) > 1:
            return logits.max(0).indices
        head = self._model.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return (logits[0].sigmoid() > head.threshold).byte()

    def _row_of_logits(
        self, k: int, columns: list[int], pixels: np.ndarray
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute the logits [classes, h, w] of the tiles of a row that have data."""
        offset = self.columns.windows[columns[0]].start

        def compute(part: Sequence[int]) -> Tensor:
            tiles = (self.columns.windows[column] for column in part)
            return self._logits(
                [pixels[:, tile.start - offset : tile.stop - offset] for tile in tiles]
            )

        columns = [column for column in columns if self._has_data(k, column)]
        return compute_windows(columns, compute, self._device, self._tile_batch)

    def _logits(self, crops: list[np.ndarray]) -> Tensor:
        """Compute the logits [B, classes, h, w] of crops [h, w, D]."""
        tensors = [
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(crop, -1, 0)))
            for crop in crops
        ]
        height, width = tensors[0].shape[1:]
        preprocessor = self._model.data_preprocessor
        samples = [SegDataSample() for _ in tensors]
        inputs = preprocessor(dict(inputs=tensors, data_samples=samples), False)
        inputs = inputs['inputs']
        # A picture that is smaller than a tile is padded, as small crops in training.
        missing = (max(a - b, 0) for a, b in zip(self.tile, inputs.shape[2:]))
        below, right = missing
        inputs = F.pad(inputs, (0, right, 0, below), value=preprocessor.pad_val)
        size = inputs.shape[2:]
        metas = [dict(img_shape=size, ori_shape=size, pad_shape=size)] * len(inputs)
        with autocast(device_type=self._device.type, enabled=self._amp):
            logits = self._model.encode_decode(inputs, metas)
        return logits[..., :height, :width].float()

    def _has_data(self, k: int, column: int) -> bool:
        """Tell whether any pixel of a tile has data."""
        if not self._raster.has_masks:
            return True
        rows = self.rows.outward.affected(self.rows.windows[k])
        columns = self.columns.outward.affected(self.columns.windows[column])
        step = max(1, VALUES // (columns.stop - columns.start))
        return any(
            self._raster.valid(
                slice(start, min(start + step, rows.stop)), columns
            ).any()
            for start in range(rows.start, rows.stop, step)
        )

    def _row_of_pixels(
        self,
        rows: slice,
        columns: slice,
        pixels: np.ndarray | None,
        before: slice | None,
    ) -> np.ndarray:
        """Return pixels [h, w, D] at the resolution of the model.

        Those that are among the ``pixels`` of the rows ``before`` are not read again.
        """
        if before is None or before.stop <= rows.start:
            return self._resized(rows, columns)
        more = self._resized(slice(before.stop, rows.stop), columns)
        return np.concatenate([pixels[rows.start - before.start :], more])

    def _resized(self, rows: slice, columns: slice) -> np.ndarray:
        """Read pixels, and resize them to the resolution of the model."""
        vertical, horizontal = self.rows.inward, self.columns.inward
        across = horizontal.needed(columns.start, columns.stop)
        if vertical.is_identity and horizontal.is_identity:
            return self._loaded(rows, across)
        values = (across.stop - across.start) * self._raster.channels
        ratio = math.ceil(self.rows.size / self.rows.length)
        step = max(1, VALUES // values // ratio)
        parts = []
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            down = vertical.needed(start, stop)
            part = torch.from_numpy(self._loaded(down, across).astype(np.float32))
            part = vertical.apply(part, 0, start, stop, down.start)
            part = horizontal.apply(part, 1, columns.start, columns.stop, across.start)
            parts.append(part.numpy())
        return np.concatenate(parts)

    def _loaded(self, rows: slice, columns: slice) -> np.ndarray:
        """Read pixels [h, w, D] as the config's pipeline loads them."""
        values = self._raster.read(rows, columns)
        if not self._raster.has_masks:
            return self._convert(values)
        masks = self._raster.read_masks(rows, columns)
        values = self._convert(np.where(masks, values, values.dtype.type(0)))
        measured = self._convert(255 * masks.astype(np.uint8)) > 0
        return np.where(measured, values, self._fill)

    def _convert(self, values: np.ndarray) -> np.ndarray:
        try:
            loaded = self._load(values)
        except ConfigError as error:
            raise ConfigError(
                f"cannot load the image '{self._raster.name}': {error}"
            ) from error
        return loaded if loaded.ndim == 3 else loaded[..., None]

    def _no_data_value(self) -> np.ndarray:
        """Return the mean of each channel, in the order in which they are loaded."""
        one = slice(0, 1)
        first = np.zeros_like(self._raster.read(one, one))
        channels = self._convert(first).shape[2]
        preprocessor = self._model.data_preprocessor
        mean = getattr(preprocessor, 'mean', None)
        if mean is None:
            return np.zeros(channels, np.float32)
        mean = mean.flatten().float().cpu().numpy()
        if getattr(preprocessor, 'channel_conversion', False) and channels == 3:
            mean = mean[::-1]
        return np.ascontiguousarray(np.broadcast_to(mean, channels))


class _Final(NamedTuple):
    """A part of the label map that can be computed, and where its logits are."""

    rows: range
    columns: range
    top: int
    left: int


def _without_ignored(
    spool: Spool, raster: Raster, ignored: int
) -> Iterator[np.ndarray]:
    """Read rows of labels, in which pixels without data have the value ``ignored``."""
    start = 0
    for labels in spool.rows():
        if raster.has_masks:
            rows = slice(start, start + len(labels))
            labels[~raster.valid(rows, slice(0, raster.width))] = ignored
        start += len(labels)
        yield labels


def check_model(model: 'LoadedModel') -> None:
    """Check that a model predicts large pictures.

    Args:
        model (LoadedModel): The model.

    Raises:
        ConfigError: If it is no segmentor, or its test pipeline does something that
            tiles would leave out.
    """
    if model.task != 'segmentation':
        raise ConfigError(
            f"the model's task is {model.task}: expected segmentation, the only one "
            'that is done in tiles'
        )
    for step in model.steps:
        name = class_name(step)
        if loads(step) == 'image' and name not in LOADERS:
            raise ConfigError(
                f"the config's test pipeline loads images with {name}, which cannot "
                f'load a part of one: expected one of {", ".join(LOADERS)}'
            )
        if not loads(step) and not re.search(REPLACED, name):
            raise ConfigError(
                f"the config's test pipeline has the step {name}, which is not applied "
                'to tiles: expected only steps that load, resize, pad or pack; predict '
                'without tiles, or use a config without this step'
            )


def _are_same(first: str | Path, second: str | Path) -> bool:
    return os.path.exists(first) and (
        os.path.realpath(first) == os.path.realpath(second)
    )


def _usual_stride(tile: int) -> int:
    return max(1, 2 * tile // 3)
