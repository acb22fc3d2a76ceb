"""The two views of images with any number of channels."""

import pytest
import torch
from helpers import tiny
from mmpretrain.models.utils import TwoNormDataPreprocessor
from mmpretrain.structures import DataSample

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import TwoViewDataPreprocessor

RGB = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], second_mean=[7.0, 8, 9])
RGB.update(second_std=[2.0, 3, 4])
FOUR = dict(mean=[1.0, 2, 3, 4], std=[4.0, 5, 6, 7])
FOUR_AND_THREE = dict(FOUR, second_mean=[7.0, 8, 9], second_std=[2.0, 3, 4])


def scaled(images, mean, std):
    shape = (-1, 1, 1)
    return (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


@pytest.mark.parametrize('views', [1, 2])
def test_rgb_is_as_in_mmpretrain(views):
    pictures = [torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8) for _ in 'ab']
    samples = [DataSample(), DataSample()]
    expected = TwoNormDataPreprocessor(**RGB, to_rgb=True)(
        dict(inputs=pictures[:views] * (3 - views), data_samples=samples)
    )
    inputs = pictures if views == 2 else pictures[0]
    found = TwoViewDataPreprocessor(**RGB, to_rgb=True)(
        dict(inputs=inputs, data_samples=samples)
    )
    assert all(map(torch.equal, found['inputs'], expected['inputs']))


def test_the_teacher_sees_its_bands():
    images = torch.rand(2, 4, 8, 8) * 5000
    preprocessor = TwoViewDataPreprocessor(**FOUR_AND_THREE, teacher_bands=[3, 0, 1])
    data = dict(inputs=images, data_samples=[DataSample(), DataSample()])
    student, teacher = preprocessor(data)['inputs']
    assert torch.equal(student, scaled(images, FOUR['mean'], FOUR['std']))
    expected = scaled(images[:, [3, 0, 1]], [7.0, 8, 9], [2.0, 3, 4])
    assert torch.equal(teacher, expected)


def test_a_gray_image_is_shown_to_an_rgb_teacher():
    images = torch.rand(2, 1, 8, 8)
    preprocessor = TwoViewDataPreprocessor(
        [1.0], [2.0], [7.0, 8, 9], [2.0, 3, 4], teacher_bands=[0, 0, 0]
    )
    data = dict(inputs=images, data_samples=[DataSample(), DataSample()])
    student, teacher = preprocessor(data)['inputs']
    assert torch.equal(student, (images - 1) / 2)
    assert torch.equal(
        teacher, scaled(images.expand(-1, 3, -1, -1), [7.0, 8, 9], [2.0, 3, 4])
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(std=[1.0]), 'mean has 4 values and std has 1: expected one for each'),
        (dict(second_std=None), 'second_mean has 3 values and second_std has no'),
        (dict(second_mean=None, second_std=None), 'second_mean and second_std are mi'),
        (dict(to_rgb=True), 'to_rgb=True, but mean has 4 values'),
        (
            dict(teacher_bands=[0, 1]),
            r'teacher_bands=\[0, 1\], but second_mean has 3 values: expected 2',
        ),
        (
            dict(teacher_bands=[0, 1, 4]),
            r'teacher_bands=\[0, 1, 4\]: the images have 4 channels, expected numbers '
            'from 0 to 3',
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TwoViewDataPreprocessor(**dict(FOUR_AND_THREE, **options))


@pytest.mark.parametrize(
    ('options', 'channels', 'message'),
    [
        (
            RGB,
            4,
            'the images have 4 channels, mean has 3 values: expected one for each',
        ),
        (RGB, 1, 'the images have 1 channels, mean has 3 values'),
        (FOUR_AND_THREE, 4, r'second_mean has 3 values: .* \(or teacher_bands\)'),
        (dict(RGB, to_rgb=True), 4, 'to_rgb=True, but the images have 4 channels: set'),
    ],
)
def test_images_that_do_not_fit_are_refused(options, channels, message):
    """One value would otherwise be broadcast, or channels be dropped."""
    images = torch.zeros(2, channels, 8, 8)
    with pytest.raises(ConfigError, match=message):
        TwoViewDataPreprocessor(**options)(dict(inputs=images, data_samples=[]))


def test_the_model_names_the_channels_of_both_views():
    images, mask = torch.zeros(2, 4, 64, 64), tiny.masked()[1]
    samples = [DataSample().set_mask(m) for m in mask]
    model = tiny.build(backbone=dict(tiny.STUDENT, in_channels=4))
    with pytest.raises(ConfigError) as error:
        model.loss(images, samples)
    assert str(error.value) == (
        'the teacher test_vit sees images of 3 channels, but its view has 4: let '
        'teacher_bands of TwoViewDataPreprocessor choose them, such as '
        'teacher_bands=[0, 1, 2]'
    )
    assert model.loss([images, images[:, :3]], samples)['loss'].isfinite()
    with pytest.raises(
        ConfigError, match='4 channels, the backbone has in_channels=3: '
    ):
        tiny.build().loss([images, images[:, :3]], samples)


def test_pixels_of_any_channels_are_predicted():
    images, mask = torch.randn(2, 5, 64, 64), tiny.masked()[1]
    parts = dict(
        tiny.PIXEL_PARTS,
        teacher=dict(tiny.PIXELS, in_channels=5),
        head=dict(tiny.LINEAR, out_channels=5 * 256),
    )
    model = tiny.build(backbone=dict(tiny.STUDENT, in_channels=5), **parts)
    samples = [DataSample().set_mask(m) for m in mask]
    assert model.loss(images, samples)['loss'].isfinite()
