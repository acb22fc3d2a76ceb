"""Pictures of the worst images of a test."""

import warnings

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.visualization import (
    draw_worst_classifications,
    draw_worst_segmentations,
    figures,
)
from mmmaskdistill.visualization.figures import plain_text
from mmmaskdistill.visualization.worst import TILE, displayable, squared

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def picture_of(path):
    return np.asarray(Image.open(path).convert('RGB'))


def area(picture, color):
    """Area of a color in tiles."""
    pixels = (picture == color).all(-1).sum()
    return pixels / (TILE * figures.DPI) ** 2


def test_rows_have_image_label_and_prediction(tmp_path):
    shade = [50, 60, 200]
    images = [
        np.full((40, 40, 3), shade, np.uint8),
        np.full((20, 40, 3), shade, np.uint8),
    ]
    truth = [np.zeros((40, 40), int), np.full((20, 40), -1)]
    prediction = [np.ones((40, 40), int), np.full((20, 40), 2)]
    draw_worst_segmentations(
        images,
        truth,
        prediction,
        ['mIoU 0\na.jpg'] * 2,
        'abc',
        PALETTE,
        tmp_path / 'w.png',
    )
    picture = picture_of(tmp_path / 'w.png')
    # The second image is twice as wide as high, and its label is white.
    assert area(picture, shade) == pytest.approx(1.5, rel=0.02)
    assert area(picture, PALETTE[0]) == pytest.approx(1, rel=0.02)
    assert area(picture, PALETTE[1]) == pytest.approx(1, rel=0.02)
    assert area(picture, PALETTE[2]) == pytest.approx(0.5, rel=0.02)
    left, middle, right = (
        np.flatnonzero((picture == color).all(-1).sum(0) > 100)[0]
        for color in (shade, PALETTE[0], PALETTE[1])
    )
    assert left < middle < right


@pytest.mark.parametrize('palette', [None, [[0, 0, 0]]])
def test_colors_are_chosen_where_the_palette_has_none(tmp_path, palette):
    labels = [np.arange(300).reshape(15, 20) % 200]
    names = [f'_{k}$' for k in range(200)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # Matplotlib skips a name such as _0.
        draw_worst_segmentations(
            [np.zeros((15, 20), np.uint8)],
            labels,
            labels,
            ['a $b$'],
            names,
            palette,
            tmp_path / 'w.png',
        )
    colors = np.unique(picture_of(tmp_path / 'w.png').reshape(-1, 3), axis=0)
    assert len(colors) > 200


def test_classified_images_are_in_rows_of_five(tmp_path):
    shade = [50, 60, 200]
    images = [np.full((30, 30, 3), shade, np.uint8)] * 7
    draw_worst_classifications(
        images, ['dog (90 %)\nlabel: cat'] * 7, tmp_path / 'w.png'
    )
    picture = picture_of(tmp_path / 'w.png')
    assert area(picture, shade) == pytest.approx(7, rel=0.02)
    assert picture.shape[1] == pytest.approx(5 * TILE * figures.DPI, rel=0.05)


@pytest.mark.parametrize(
    'shape, dtype',
    [
        ((4, 6), np.uint8),
        ((4, 6, 1), np.uint16),
        ((4, 6, 2), np.float32),
        ((4, 6, 3), np.int32),
        ((4, 6, 13), np.float64),
        ((1, 3000, 3), np.uint8),
        ((700, 1200, 5), np.int16),
    ],
)
def test_images_of_all_kinds_can_be_shown(shape, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, shape).astype(dtype)
    shown = displayable(image)
    assert shown.dtype == np.uint8 and shown.shape[2] == 3
    assert max(shown.shape[:2]) == min(max(shape[:2]), 512)
    assert shown.max() > 150


def test_values_are_stretched_and_missing_ones_are_black():
    image = np.array([[0.0, 0.5, 1.0, np.nan]])
    np.testing.assert_array_equal(displayable(image)[0, :, 0], [0, 128, 255, 0])
    assert displayable(np.full((2, 2), np.nan)).max() == 0


def test_squares_are_padded_on_both_sides():
    square = squared(np.zeros((1, 3, 3), np.uint8))
    assert square[..., 0].tolist() == [[235] * 3, [0] * 3, [235] * 3]


def test_texts_are_shortened_in_the_middle():
    assert plain_text('0123456789', 10) == '0123456789'
    assert plain_text('0123456789x', 10) == '0123…6789x'
    assert plain_text('_a$', 10) == r' _a\$'
    assert plain_text('\udcff', 10) == r'\udcff'
