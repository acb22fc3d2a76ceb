"""RandomJitteredCrop against the three torchvision transforms of BEiT v2's code."""

from collections import Counter

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image
from scipy.stats import kstest
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

skimage_data = pytest.importorskip('skimage.data')
ADJUST = dict(
    _brightness=TF.adjust_brightness,
    _contrast=TF.adjust_contrast,
    _saturation=TF.adjust_saturation,
)


def build(**options):
    init_default_scope('mmpretrain')
    return TRANSFORMS.build(
        dict(type='mmmaskdistill.RandomJitteredCrop', scale=224, **options)
    )


@pytest.fixture(scope='module')
def photograph():
    return Image.fromarray(skimage_data.astronaut()[:375])


def bgr(picture):
    return np.ascontiguousarray(np.asarray(picture)[..., ::-1])


@pytest.mark.parametrize('seed', range(8))
def test_images_equal_torchvisions(seed, photograph):
    """Jittering the whole image, cropping and flipping gives the same images."""
    crop = build(second_scale=196)
    rng = np.random.RandomState(seed)
    draws = [
        (jitter, rng.uniform(0.6, 1.4))
        for jitter, _ in (crop.jitters[i] for i in rng.permutation(3))
    ]
    flip = bool(seed % 2)
    np.random.seed(seed)
    box = crop.rand_crop_params(bgr(photograph))
    crop.rand_crop_params = lambda image: box
    crop.draw_jitter = lambda: draws
    crop.draw_flip = lambda: flip
    results = crop(dict(img=bgr(photograph)))

    jittered = photograph
    for jitter, factor in draws:
        jittered = ADJUST[jitter.__name__](jittered, factor)
    for picture, size in zip(results['img'], (224, 196)):
        expected = TF.resized_crop(
            jittered, *box, [size, size], InterpolationMode.BICUBIC
        )
        if flip:
            expected = TF.hflip(expected)
        difference = np.abs(picture.astype(float) - bgr(expected))
        assert picture.shape == (size, size, 3)
        assert difference.mean() < 1.2  # on a scale of 0 to 255
    assert results['img_shape'] == (224, 224, 3)
    assert results['flip'] is flip


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_crop_without_jitter_equals_pillows(interpolation, photograph):
    crop = build(
        brightness=0,
        contrast=0,
        saturation=0,
        flip_prob=0,
        interpolation=interpolation,
    )
    np.random.seed(0)
    box = crop.rand_crop_params(bgr(photograph))
    np.random.seed(0)
    result = crop(dict(img=bgr(photograph)))['img']
    expected_image = TF.resized_crop(
        photograph, *box, [224, 224], InterpolationMode(interpolation)
    )
    difference = np.abs(result.astype(int) - bgr(expected_image))
    assert difference.max() <= 2 and difference.mean() < 0.1


def test_draws_have_the_distribution_of_torchvisions():
    """Orders are equally frequent, factors uniform, half of the images flipped."""
    crop = build()
    np.random.seed(0)
    draws = [crop.draw_jitter() for _ in range(3000)]
    orders = Counter(tuple(j.__name__ for j, _ in draw) for draw in draws)
    assert len(orders) == 6
    assert all(abs(n - 500) < 100 for n in orders.values())
    for name in ADJUST:
        factors = [f for draw in draws for j, f in draw if j.__name__ == name]
        assert kstest(factors, 'uniform', (0.6, 0.8)).pvalue > 1e-3
    flips = sum(crop.draw_flip() for _ in range(3000))
    assert abs(flips - 1500) < 140


@pytest.mark.parametrize('size', [(1, 1), (3, 500), (40, 30)])
def test_images_of_any_size_are_cropped(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert build()(dict(img=image))['img'].shape == (224, 224, 3)


def test_strengths_above_1_are_refused():
    with pytest.raises(ValueError, match='contrast=1.5: expected 0 to 1'):
        build(contrast=1.5)


def test_other_interpolations_are_refused():
    with pytest.raises(ValueError, match="'nearest': expected bicubic or bilinear"):
        build(interpolation='nearest')


def other_image(channels, dtype):
    return (np.random.default_rng(0).random((60, 52, channels)) * 200).astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5, 12])
def test_images_of_any_channels_and_type(channels, dtype):
    crop = build(second_scale=196, saturation=0, flip_prob=1)
    image = other_image(channels, dtype)
    pictures = crop(dict(img=image))['img']
    for picture, size in zip(pictures, (224, 196)):
        assert picture.shape == (size, size, channels)
        assert picture.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
        # A shift in one channel does not leak into the others.
        assert np.corrcoef(picture[..., 0].ravel(), picture[..., -1].ravel())[0, 1] < (
            1.1 if channels == 1 else 0.5
        )


def test_an_image_without_a_channel_axis_gets_one():
    image = other_image(1, np.float32)[..., 0]
    assert build(saturation=0)(dict(img=image))['img'].shape == (224, 224, 1)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_brightness_and_contrast_of_other_images(dtype, order):
    """Contrast changes the difference from the mean of each channel, as written."""
    image = other_image(5, dtype)
    crop = build(saturation=0, flip_prob=0)
    crop.rand_crop_params = lambda image: (0, 0, 60, 52)
    crop.scales = [(60, 52)]
    draws = [(crop.jitters[k][0], (1.1, 0.7)[k]) for k in order]
    crop.draw_jitter = lambda: draws
    found = crop(dict(img=image))['img'].astype(float)
    expected = image.astype(float)
    for k in order:
        if k == 0:
            expected = expected * 1.1
        else:
            mean = expected[::4, ::4].mean((0, 1))
            expected = mean + 0.7 * (expected - mean)
    if dtype == np.uint8:
        expected = expected.clip(0, 255)
    # The mean is that of every fourth row and column; uint8 is rounded twice.
    assert np.abs(found - expected).max() < (3 if dtype == np.uint8 else 2)


def test_saturation_of_other_images_is_refused_by_name():
    for image in (other_image(4, np.uint8), other_image(3, np.uint16)):
        with pytest.raises(ConfigError) as error:
            build()(dict(img=image, img_path='a.tif'))
        assert str(error.value) == (
            'saturation=0.4 of RandomJitteredCrop is for RGB images of 8 bits, but '
            f"'a.tif' has {image.shape[2]} channels of {image.dtype}: set saturation=0"
        )
