"""Pictures of segmentations."""

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.visualization import colorize, draw_segmentation, figures
from mmmaskdistill.visualization.segmentation import pixel_accuracy

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_colorize_paints_labels_outside_the_palette_white():
    colors = colorize(np.array([[0, 2], [255, -1]]), PALETTE)
    np.testing.assert_array_equal(
        colors, [[[255, 0, 0], [0, 0, 255]], [[255] * 3, [255] * 3]]
    )


def test_pixel_accuracy_leaves_out_ignored_pixels():
    truth = np.array([[0, 1], [2, 255]])
    accuracy = pixel_accuracy(np.array([[0, 1], [0, 255]]), truth, 255)
    assert accuracy == pytest.approx(2 / 3)
    assert np.isnan(pixel_accuracy(truth, np.full((2, 2), 255), 255))


@pytest.mark.parametrize('name', ['scratch', 'a title of more than a single line'])
def test_tiles_show_image_truth_and_prediction(tmp_path, name):
    shade = [50, 60, 200]
    images = np.broadcast_to(np.uint8(shade), (2, 16, 16, 3))
    truth = np.zeros((2, 16, 16), np.int64)
    truth[:, 8:] = 1
    truth[1, 8:] = 255
    draw_segmentation(
        images,
        truth,
        {name: np.full_like(truth, 2)},
        PALETTE,
        tmp_path / 'seg.png',
        classes=['a', 'b', 'c'],
    )

    picture = np.asarray(Image.open(tmp_path / 'seg.png').convert('RGB'))
    # The first row of pixels that belongs to the first image.
    top = (picture == shade).all(-1).any(1).argmax()
    left = figures.MARGIN * figures.DPI
    tile, gap = figures.TILE * figures.DPI, figures.GAP * figures.DPI

    def pixel(row, column, y, x=0.5):
        caption = 0.17 * figures.DPI
        return picture[
            round(top + row * (tile + gap + caption) + y * tile),
            round(left + column * (tile + gap) + x * tile),
        ].tolist()

    assert pixel(0, 0, 0.5) == shade and pixel(1, 0, 0.9) == shade
    assert pixel(0, 1, 0.25) == [255, 0, 0] and pixel(0, 1, 0.75) == [0, 255, 0]
    assert pixel(1, 1, 0.75) == [255] * 3
    assert pixel(0, 2, 0.25) == [0, 0, 255] == pixel(1, 2, 0.75)
    lines = 1 if name == 'scratch' else 2
    expected_top = (figures.MARGIN + figures.LINE * lines) * figures.DPI
    assert top == pytest.approx(expected_top, abs=2)


def test_prediction_must_have_the_shape_of_the_images(tmp_path):
    with pytest.raises(ValueError, match="'scratch'"):
        draw_segmentation(
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((1, 4, 4), int),
            {'scratch': np.zeros((1, 2, 2), int)},
            PALETTE,
            tmp_path / 'x.png',
        )
