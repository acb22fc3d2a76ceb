"""The measured mean and standard deviation of channels, against numpy."""

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.datasets import measure_channels
from mmmaskdistill.errors import ConfigError

tifffile = pytest.importorskip('tifffile')


def write(path, array):
    tifffile.imwrite(path, array, photometric='minisblack', planarconfig='contig')
    return str(path)


def test_every_pixel_counts_the_same(tmp_path):
    rng = np.random.default_rng(0)
    scale = np.array([1, 100, 0, 9, 3000])
    arrays = [
        (rng.random((h, w, 5)) * scale + 60000).astype(np.uint16)
        for h, w in ((9, 13), (40, 3), (1, 2))
    ]
    files = [write(tmp_path / f'{k}.tif', array) for k, array in enumerate(arrays)]
    pixels = np.concatenate([array.reshape(-1, 5) for array in arrays]).astype(float)
    found = measure_channels(files)
    assert found.mean == pytest.approx(pixels.mean(0))
    # The same value everywhere gives the deviation 1.
    assert found.std == pytest.approx(np.where(scale > 1, pixels.std(0), 1))
    assert found.minimum == pixels.min(0).tolist()
    assert found.maximum == pixels.max(0).tolist()
    assert found.count == [len(pixels)] * 5
    chosen = measure_channels(files, bands=[4, 0])
    assert chosen.mean == pytest.approx(pixels.mean(0)[[4, 0]])


def test_the_order_of_colors_is_the_files(tmp_path):
    Image.new('RGB', (4, 4), (10, 20, 30)).save(tmp_path / 'x.png')
    assert measure_channels([str(tmp_path / 'x.png')]).mean == [10, 20, 30]


def test_values_that_are_not_finite_do_not_count(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    array[0, 0, 0], array[1, 1, 1] = np.nan, -np.inf
    found = measure_channels([write(tmp_path / 'x.tif', array)])
    assert found.mean == pytest.approx(
        [np.mean([2, 4, 6, 8, 10]), np.mean([1, 3, 5, 9, 11])]
    )
    assert found.minimum == [2, 1]
    array[..., 1] = np.nan
    with pytest.raises(ConfigError, match=r'channel 1 of 1 images.* no finite value'):
        measure_channels([write(tmp_path / 'x.tif', array)])


def test_different_channels_are_named(tmp_path):
    files = [
        write(tmp_path / f'{c}.tif', np.zeros((3, 4, c), np.uint8)) for c in (2, 5)
    ]
    with pytest.raises(ConfigError, match=r"5.tif' has 5 channels, '.*2.tif' has 2"):
        measure_channels(files)
    with pytest.raises(
        ConfigError, match=r"bands=\[0, 2\]: '.*2.tif' has 2 channels, e"
    ):
        measure_channels(files[:1], bands=[0, 2])
    with pytest.raises(ConfigError, match='no images to measure'):
        measure_channels([])
