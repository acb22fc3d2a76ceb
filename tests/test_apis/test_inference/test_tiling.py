"""Tiles of large pictures against the same computation on the picture as a whole."""

import json
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import trained
from mmseg.models import BaseSegmentor
from PIL import Image
from torch import nn

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.inference import tiling
from mmmaskdistill.apis.inference.axes import Axis, Resizing
from mmmaskdistill.apis.inference.rasters import Raster
from mmmaskdistill.apis.inference.tiling import Tiles, predict_large, tile_of
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models.segmentors import windows

CLASSES = 5
PREPROCESSOR = dict(
    type='mmseg.SegDataPreProcessor',
    mean=[124.0, 116.0, 104.0],
    std=[58.0, 57.0, 50.0],
    bgr_to_rgb=True,
)


class Convolution(BaseSegmentor):
    """A segmentor whose logits are a convolution, which sees the end of a window."""

    extract_feat = loss = predict = _forward = None

    def __init__(self, kernel=1, classes=CLASSES, align_corners=False):
        super().__init__(PREPROCESSOR)
        self.align_corners, self.out_channels = align_corners, classes
        self.test_cfg = dict(mode='slide', crop_size=(16, 24), stride=(10, 17))
        self.convolution = nn.Conv2d(3, classes, kernel, padding=kernel // 2)
        self.decode_head = nn.Module()
        self.decode_head.threshold = 0.6
        self.sizes = []

    def encode_decode(self, inputs, metas):
        assert all(meta['img_shape'] == inputs.shape[2:] for meta in metas)
        self.sizes.append(tuple(inputs.shape))
        return self.convolution(inputs)


def build(*args, **kwargs):
    torch.manual_seed(0)
    return Convolution(*args, **kwargs).eval()


def picture(*size):
    """A picture with structures of some pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (*(side // 4 + 1 for side in size), 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.BICUBIC))


def load(values):
    """What LoadImageFromFile returns: blue first."""
    return np.ascontiguousarray(values[..., ::-1])


def join(tiles, progress=None):
    """Put the blocks of a label map together, each pixel of which they cover once."""
    labels = np.full((tiles.rows.size, tiles.columns.size), -1)
    for row, column, block in tiles.label_blocks(progress):
        part = labels[row : row + len(block), column : column + block.shape[1]]
        assert part.shape == block.shape and (part == -1).all()
        part[:] = block
    assert (labels >= 0).all()
    return labels


@torch.no_grad()
def blend(model, image, scale, tiles):
    """Resize, average the tiles and resize back, all of it as a whole."""
    height, width = image.shape[:2]
    x = torch.tensor(image).permute(2, 0, 1)[None].float()
    size = [max(1, math.floor(side * scale + 0.5)) for side in (height, width)]
    x = F.interpolate(x, size, mode='bilinear')
    mean, std = (torch.tensor(PREPROCESSOR[k]).view(3, 1, 1) for k in ('mean', 'std'))
    x = (x - mean) / std
    total, weights = torch.zeros(1, model.out_channels, *size), torch.zeros(size)
    tile = [min(pair) for pair in zip(tiles.tile, size)]
    bumps = [torch.sin(torch.pi * (torch.arange(n) + 0.5) / n) ** 2 for n in tile]
    weight = bumps[0][:, None] * bumps[1]
    for rows in tiles.rows.windows:
        for columns in tiles.columns.windows:
            crop = x[..., rows, columns]
            missing = [a - b for a, b in zip(tiles.tile, tile)]
            padded = F.pad(crop, (0, missing[1], 0, missing[0]))
            out = model.convolution(padded)[..., : tile[0], : tile[1]]
            total[..., rows, columns] += out * weight
            weights[rows, columns] += weight
    return F.interpolate(
        total / weights,
        (height, width),
        mode='bilinear',
        align_corners=model.align_corners,
    )[0]


SIZES = [(70, 90), (16, 24), (17, 25), (9, 70), (1, 99), (99, 1), (1, 1), (41, 12)]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('scale', [1, 0.5, 0.37, 1.3, 2.9])
@pytest.mark.parametrize('size', SIZES)
def test_labels_equal_a_blending_in_memory(size, scale, align_corners, monkeypatch):
    model, image = build(5, align_corners=align_corners), picture(*size)
    tiles = Tiles(model, Raster(image), load, scale=scale)
    logits = blend(model, image, scale, tiles)
    best = logits.topk(2, 0).values
    # Sums in another order may differ in the last digits.
    clear = (best[0] - best[1] > 1e-4).numpy()
    assert clear.mean() > 0.98
    expected = logits.argmax(0).numpy()
    # As much memory as it likes, bands of a tile's width, and the smallest parts
    for memory, values in ((10**9, 10**9), (1, 10**9), (1, 1)):
        monkeypatch.setattr(tiling, 'VALUES', values)
        tiles = Tiles(model, Raster(image), load, scale=scale, memory=memory)
        assert len(tiles._bands()) == 1 or memory == 1
        labels = join(tiles)
        assert np.array_equal(labels[clear], expected[clear])
    # Smaller pictures are padded to the size of a tile.
    assert {size[2:] for size in model.sizes} == {(16, 24)}
    if size == (70, 90):
        assert len(np.unique(expected)) == CLASSES
        assert len(tiles._bands()) == max(1, math.ceil(90 * scale / 24))


@pytest.mark.parametrize('size', SIZES)
def test_a_model_without_context_gives_the_same_labels_as_a_whole(size):
    model, image = build(1), picture(*size)
    inputs = model.data_preprocessor(
        dict(inputs=[torch.tensor(load(image)).permute(2, 0, 1)], data_samples=[None])
    )['inputs']
    expected = model.convolution(inputs)[0].argmax(0).numpy()
    for memory in (10**9, 1):
        tiles = Tiles(model, Raster(image), load, memory=memory)
        assert np.array_equal(join(tiles), expected)


@pytest.mark.parametrize(
    'length, tile, stride', [(100, 16, 10), (26, 16, 10), (9, 9, 4)]
)
def test_weights_add_up_to_one_without_jumps(length, tile, stride):
    axis = Axis(length, tile, stride, 1.0, False)
    assert axis.windows[0].start == 0 and axis.windows[-1].stop == length
    total, largest = torch.zeros(length), 0
    for window, weights in zip(axis.windows, axis.weights):
        assert window.stop - window.start == tile == len(weights)
        total[window] += weights
        # Next to another tile, a tile begins with almost no weight.
        if window.start:
            largest = max(largest, weights[0])
        if window.stop < length:
            largest = max(largest, weights[-1])
    torch.testing.assert_close(total, torch.ones(length))
    assert largest < 0.05
    starts = [window.start for window in axis.windows]
    assert max(np.diff(starts), default=0) <= stride


@pytest.mark.parametrize('source, target', [(10, 7), (7, 10), (1, 9), (9, 1), (5, 5)])
@pytest.mark.parametrize('align_corners', [False, True])
def test_parts_of_a_side_are_resized_as_the_whole(source, target, align_corners):
    x = torch.rand(3, source)
    expected = F.interpolate(
        x[None], target, mode='linear', align_corners=align_corners
    )
    resizing = Resizing(source, target, align_corners)
    for start in range(target):
        for stop in range(start + 1, target + 1):
            needed = resizing.needed(start, stop)
            part = resizing.apply(x[:, needed], 1, start, stop, needed.start)
            torch.testing.assert_close(part, expected[0, :, start:stop])
    for known in range(source + 1):
        assert resizing.ready(known) == sum(resizing.second < known)
    for start in range(source):
        affected = resizing.affected(slice(start, start + 1))
        for k in range(target):
            uses = start in (resizing.first[k], resizing.second[k])
            assert uses <= (affected.start <= k < affected.stop)


def test_memory_does_not_grow_with_the_picture(monkeypatch):
    """The logits of a band have the size that the memory allows, one band at a time."""
    made, zeros = [], torch.zeros

    def recorded(shape, **options):
        # The memory of a band is free when that of the next one is made.
        assert all(band() is None for band, _ in made)
        tensor = zeros(shape, **options)
        made.append((weakref.ref(tensor.untyped_storage()), shape))
        return tensor

    monkeypatch.setattr(torch, 'zeros', recorded)
    model = build(1)
    for size in ((16, 1500), (1500, 16), (200, 200)):
        made.clear()
        tiles = Tiles(model, Raster(picture(*size)), load, memory=40_000)
        join(tiles)
        assert max(4 * math.prod(shape) for _, shape in made) <= 40_000
        assert len(made) == len(tiles._bands())
        assert sum(shape[2] for _, shape in made) == size[1]


def test_tiles_are_computed_in_batches_and_counted():
    model, calls = build(1), []
    image = picture(40, 60)
    tiles = Tiles(model, Raster(image), load, tile_batch=3)
    labels = join(tiles, lambda *numbers: calls.append(numbers))
    assert (len(tiles.rows.windows), len(tiles.columns.windows)) == (4, 4)
    assert model.sizes == [(3, 3, 16, 24), (1, 3, 16, 24)] * 4
    assert calls == [(4, 16), (8, 16), (12, 16), (16, 16)]
    model.sizes.clear()
    assert np.array_equal(join(Tiles(model, Raster(image), load)), labels)
    assert model.sizes == [(1, 3, 16, 24)] * 16


def test_a_gpu_uses_a_quarter_of_its_free_memory_and_halves_batches(monkeypatch):
    model, image = build(1), picture(40, 60)
    expected = join(Tiles(model, Raster(image), load))
    encode_decode, free = model.encode_decode, 4 * 25_000

    def limited(inputs, metas):
        if len(inputs) > 1:
            raise torch.OutOfMemoryError('no memory')
        return encode_decode(inputs, metas)

    model.encode_decode = limited
    monkeypatch.setattr(tiling, 'free_memory', lambda device: free)
    monkeypatch.setattr(windows, 'free_memory', lambda device: free)
    monkeypatch.setattr(windows, 'start_peak', lambda device: 0)
    monkeypatch.setattr(windows, 'read_peak', lambda device: 1)
    tiles = Tiles(model, Raster(image), load)
    assert tiles._memory == 25_000 and len(tiles._bands()) == 2
    assert np.array_equal(join(tiles), expected)


def test_one_logit_is_compared_with_the_threshold():
    model, image = build(1, classes=1), picture(40, 60)
    x = torch.tensor(image).permute(2, 0, 1).float()
    mean, std = (torch.tensor(PREPROCESSOR[k]).view(3, 1, 1) for k in ('mean', 'std'))
    with torch.no_grad():
        probability = model.convolution(((x - mean) / std)[None])[0, 0].sigmoid()
    expected = (probability > 0.6).numpy()
    assert 0.05 < expected.mean() < 0.95
    assert np.array_equal(join(Tiles(model, Raster(image), load)), expected)


class Holes(Raster):
    """A picture with pixels that have no data."""

    has_masks = True

    def __init__(self, array, masks):
        super().__init__(array)
        self.masks = masks

    def read_masks(self, rows, columns):
        return self.masks[rows, columns]

    def valid(self, rows, columns):
        return self.masks[rows, columns].any(-1)


@pytest.mark.parametrize('scale', [1, 0.5])
def test_the_model_sees_the_mean_where_there_is_no_data(scale):
    model, image = build(5), picture(60, 90).astype(np.float32)
    masks = np.ones(image.shape, bool)
    masks[:33, :50] = False
    masks[50, 70, 1] = False
    image[~masks] = np.nan
    labels = join(Tiles(model, Holes(image, masks), load, scale=scale))
    filled = np.where(masks, image, np.float32(PREPROCESSOR['mean']))
    tiles = Tiles(model, Raster(filled), load, scale=scale)
    expected = join(tiles)
    valid = masks.any(-1)
    assert np.array_equal(labels[valid], expected[valid])
    # Tiles without any data are not computed.
    without = [
        (rows, columns)
        for rows in tiles.rows.windows
        for columns in tiles.columns.windows
        if rows.stop / scale <= 33 and columns.stop / scale <= 50
    ]
    everything = len(tiles.rows.windows) * len(tiles.columns.windows)
    assert 2 * everything - len(model.sizes) == len(without) > 0


def test_the_size_of_tiles_is_that_of_the_models_crops():
    model = build()
    assert tile_of(model) == ((16, 24), (10, 16))
    model.test_cfg = dict(mode='slide', crop_size=(30, 30), stride=(30, 5))
    assert tile_of(model) == ((30, 30), (20, 5))
    model.test_cfg = dict(mode='whole')
    model.backbone = nn.Module()
    model.backbone.img_size = 24
    assert tile_of(model) == ((24, 24), (16, 16))
    model.data_preprocessor.size = (12, 9)
    assert tile_of(model) == ((12, 9), (8, 6))
    model.data_preprocessor.size = model.backbone.img_size = None
    with pytest.raises(ConfigError) as error:
        tile_of(model)
    assert str(error.value) == (
        "the config does not say which size the model's crops have: set size of the "
        "data preprocessor, or test_cfg=dict(mode='slide', crop_size=..., stride=...)"
    )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(scale=0), 'scale=0: expected a positive number'),
        (dict(scale=-0.5), 'scale=-0.5: expected a positive number'),
        (dict(scale=math.nan), 'scale=nan: expected a positive number'),
        (dict(tile=(0, 5)), 'tile=(0, 5): expected two positive numbers'),
        (dict(tile_batch=0), 'tile_batch=0: expected at least 1'),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError) as error:
        Tiles(build(), Raster(picture(20, 20)), load, **options)
    assert str(error.value) == message


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('trained') / 'segment.pth'
    return load_model(trained.write(trained.segmentation(), path), device='cpu')


@pytest.fixture(scope='module')
def bands_segmentor(tmp_path_factory):
    """A segmentor of three of a file's five bands and another one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('trained') / 'bands.pth'
    loader = dict(type='mmmaskdistill.LoadImage', channels=5, bands=[3, 0, 1, 4])
    config = trained.segmentation(channels=4, load=loader)
    return load_model(trained.write(config, path), device='cpu')


def test_a_picture_of_one_tile_is_predicted_as_usual(segmentor, tmp_path):
    """Size 64 is that of a tile, and what the pipeline leaves as it is."""
    for kind in ('png', 'jpg'):
        path = tmp_path / f'x.{kind}'
        Image.fromarray(picture(64, 64)).save(path)
        expected = segmentor.predict(path).labels
        for source in (path, np.asarray(Image.open(path)), Image.open(path)):
            done = predict_large(segmentor, source, tmp_path / 'a' / 'labels.png')
            assert (done.height, done.width, done.tiles) == (64, 64, 1)
            assert done.ignored is None
            image = Image.open(done.file)
            assert np.array_equal(np.asarray(image), expected)
            colors = np.array(image.getpalette('RGB')).reshape(-1, 3)
            assert colors[:4].tolist() == trained.PALETTE
    assert len(np.unique(expected)) > 1


def test_georeferenced_bands_become_a_georeferenced_label_map(
    bands_segmentor, tmp_path
):
    rasterio = pytest.importorskip('rasterio')
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3000, (5, 100, 150)).astype(np.uint16)
    values[:, :70, :90] = 9999
    transform = rasterio.Affine(10, 0, 4e5, 0, -10, 5e6)
    with rasterio.open(
        tmp_path / 'x.tif',
        'w',
        driver='GTiff',
        **dict(height=100, width=150, count=5, dtype='uint16', tiled=True),
        **dict(crs='EPSG:32633', transform=transform, nodata=9999),
    ) as file:
        file.write(values)
    out = tmp_path / 'labels.tif'
    done = predict_large(bands_segmentor, str(tmp_path / 'x.tif'), out, scale=1.5)
    assert done.ignored == 255 and (done.height, done.width) == (100, 150)
    with rasterio.open(out) as file:
        labels = file.read(1)
        assert file.crs == 'EPSG:32633' and file.transform == transform
        assert json.loads(file.tags()['classes']) == list(trained.CLASSES)
    assert (labels[:70, :90] == 255).all() and labels.shape == (100, 150)
    rest = np.ones(labels.shape, bool)
    rest[:70, :90] = False
    assert labels[rest].max() < 4
    # The same with the mean in place of no data, without rasterio's file
    filled = np.moveaxis(values, 0, -1).astype(np.float32)
    means = bands_segmentor.model.data_preprocessor.mean.flatten().numpy()
    for band, mean in zip((3, 0, 1, 4), means):
        filled[:70, :90, band] = mean
    predict_large(bands_segmentor, filled, tmp_path / 'y.png', scale=1.5)
    expected = np.asarray(Image.open(tmp_path / 'y.png'))
    assert np.array_equal(labels[rest], expected[rest])
    assert len(np.unique(expected)) > 1


def test_pictures_that_do_not_fit_the_model_are_named(bands_segmentor, tmp_path):
    path = tmp_path / 'x.png'
    Image.fromarray(picture(30, 30)).save(path)
    with pytest.raises(ConfigError) as error:
        predict_large(bands_segmentor, path, tmp_path / 'labels.png')
    assert str(error.value) == (
        f"cannot load the image '{path}': the image 'an image in memory' has 3 "
        'channels: expected channels=5, as set in LoadImage'
    )
    assert list(tmp_path.iterdir()) == [path]


def test_models_and_pipelines_that_have_no_tiles(segmentor, tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = trained.write(trained.classification(), tmp_path / 'classify.pth')
    with pytest.raises(ConfigError) as error:
        predict_large(load_model(path, device='cpu'), picture(9, 9), 'x.png')
    assert str(error.value) == (
        "the model's task is classification: expected segmentation, the only one that "
        'is done in tiles'
    )
    steps = [*segmentor.steps[:1], dict(type='CLAHE'), *segmentor.steps[1:]]
    monkeypatch.setattr(segmentor, 'steps', steps)
    with pytest.raises(ConfigError) as error:
        predict_large(segmentor, picture(9, 9), tmp_path / 'x.png')
    assert str(error.value) == (
        "the config's test pipeline has the step CLAHE, which is not applied to tiles: "
        'expected only steps that load, resize, pad or pack; predict without tiles, or '
        'use a config without this step'
    )
    steps = [dict(type='LoadSingleRSImageFromFile'), *segmentor.steps[1:]]
    monkeypatch.setattr(segmentor, 'steps', steps)
    with pytest.raises(ConfigError) as error:
        predict_large(segmentor, picture(9, 9), tmp_path / 'x.png')
    assert str(error.value) == (
        "the config's test pipeline loads images with LoadSingleRSImageFromFile, which "
        'cannot load a part of one: expected one of LoadImageFromFile, '
        'StrictLoadImageFromFile, LoadImage'
    )


def test_a_picture_is_not_overwritten(segmentor, tmp_path, monkeypatch):
    path = tmp_path / 'x.png'
    Image.fromarray(picture(30, 30)).save(path)
    content = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        predict_large(segmentor, path, 'x.png')
    assert str(error.value) == (
        "the label map would overwrite the picture 'x.png': give it another name"
    )
    assert path.read_bytes() == content
