"""Pictures of masks, targets, predictions and errors of pre-training."""

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.visualization import (
    draw_pretraining,
    figures,
    fit_pca_basis,
    pca_colors,
)
from mmmaskdistill.visualization.pretraining import code_colors, hide_patches


def tile_pixel(picture, row, column, y, x):
    """Return the color [3] at a place in a tile of a picture with one-line titles.

    Args:
        picture (ndarray): The picture [H, W, 3].
        row (int): Row of the tile.
        column (int): Column of the tile.
        y (float): Vertical place in the tile, from 0 (top) to 1.
        x (float): Horizontal place in the tile, from 0 (left) to 1.
    """
    step = figures.TILE + figures.GAP
    top = figures.MARGIN + figures.LINE + row * step + y * figures.TILE
    left = figures.MARGIN + column * step + x * figures.TILE
    return picture[round(top * figures.DPI), round(left * figures.DPI)]


def test_hidden_patches_are_painted_gray():
    image = np.full((8, 12, 3), 7, np.uint8)
    mask = np.array([[True, False, False], [False, False, True]])
    hidden = hide_patches(image, mask)
    assert (hidden[:4, :4] == 234).all() and (hidden[4:, 8:] == 234).all()
    assert (hidden == 7).sum() == 4 * 16 * 3
    with pytest.raises(ValueError, match='no grid'):
        hide_patches(image, np.zeros((3, 3), bool))


def test_hidden_patches_may_be_cut_by_the_border():
    """Four patches of 32 pixels cover 100 pixels; the last is cut to 4 pixels."""
    mask = np.zeros((4, 4), bool)
    mask[0, 1] = mask[3, 3] = True
    hidden = hide_patches(np.zeros((100, 100, 3), np.uint8), mask, patch_size=32)
    assert (hidden[:32, 32:64] == 234).all() and (hidden[96:, 96:] == 234).all()
    assert (hidden == 234).sum() == 3 * (32 * 32 + 4 * 4)


def read(path):
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


IMAGES = np.full((2, 32, 32, 3), 100, np.uint8)
MASKS = np.zeros((2, 2, 2), bool)
MASKS[:, 0, 1] = True
HIDDEN, VISIBLE = (0.25, 0.75), (0.75, 0.25)
ERRORS = np.where(MASKS, np.array([0.5, 1.0])[:, None, None], np.nan)


def test_tiles_show_image_mask_features_and_errors(tmp_path):
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(2, 2, 2, 5))
    student = np.full_like(teacher, np.nan)
    student[MASKS] = teacher[MASKS] + [[0.5], [1.0]]

    draw_pretraining(
        IMAGES,
        MASKS,
        {'T': (teacher, student)},
        ERRORS,
        tmp_path / 'new' / 'pretraining.png',
    )

    picture = read(tmp_path / 'new' / 'pretraining.png')
    assert (tile_pixel(picture, 0, 0, *HIDDEN) == 100).all()
    assert (tile_pixel(picture, 0, 1, *HIDDEN) == 234).all()
    assert (tile_pixel(picture, 0, 1, *VISIBLE) == 100).all()
    basis = fit_pca_basis(teacher)
    for row in range(2):
        np.testing.assert_allclose(
            tile_pixel(picture, row, 2, *HIDDEN),
            255 * pca_colors(teacher[row, 0, 1], basis),
            atol=1.01,
        )
        np.testing.assert_allclose(
            tile_pixel(picture, row, 3, *HIDDEN),
            255 * pca_colors(student[row, 0, 1], basis),
            atol=1.01,
        )
        for column in (3, 4):
            assert np.ptp(tile_pixel(picture, row, column, *VISIBLE)) <= 1
            assert tile_pixel(picture, row, column, *VISIBLE)[0] > 230
    # All errors share one scale: the larger error has the color at the end of the
    # color map, the smaller one the color in its middle.
    np.testing.assert_allclose(
        tile_pixel(picture, 1, 4, *HIDDEN), [252, 253, 191], atol=2
    )
    np.testing.assert_allclose(
        tile_pixel(picture, 0, 4, *HIDDEN), [183, 55, 121], atol=4
    )


def test_each_code_has_its_own_color(tmp_path):
    """A code's color is the same in every picture, for teacher and student.

    Patches without a prediction are blank.
    """
    teacher = np.arange(8).reshape(2, 2, 2)
    student = np.full_like(teacher, -1)
    student[:, 0, 1] = [teacher[0, 0, 1], 7]
    draw_pretraining(
        IMAGES, MASKS, {'T': (teacher, student)}, ERRORS, tmp_path / 'codes.png'
    )

    picture = read(tmp_path / 'codes.png')
    colors = 255 * code_colors(np.arange(8))
    assert len(np.unique(colors.round(), axis=0)) == 8
    for row, code in enumerate((1, 7)):
        np.testing.assert_allclose(
            tile_pixel(picture, row, 2, *HIDDEN), colors[teacher[row, 0, 1]], atol=1.01
        )
        np.testing.assert_allclose(
            tile_pixel(picture, row, 3, *HIDDEN), colors[code], atol=1.01
        )
        assert (tile_pixel(picture, row, 3, *VISIBLE) > 230).all()
    np.testing.assert_array_equal(
        code_colors(np.array([3, 8191]))[0], code_colors(np.arange(4))[3]
    )


def test_each_teacher_has_its_own_columns_and_errors_may_be_negative(tmp_path):
    rng = np.random.default_rng(0)
    pairs = {
        name: (rng.normal(size=(2, 2, 2, 5)) * scale,) * 2
        for name, scale in (('small', 1e-3), ('large', 1e3))
    }
    draw_pretraining(
        IMAGES,
        MASKS,
        pairs,
        -ERRORS,
        tmp_path / 'two.png',
        student='student, untrained',
    )

    # The titles have three lines. Two of them are cut off, because tile_pixel expects
    # titles of one line.
    picture = read(tmp_path / 'two.png')[round(2 * figures.LINE * figures.DPI) :]
    for column, (teacher, _) in zip((2, 4), pairs.values()):
        color = 255 * pca_colors(teacher[0, 0, 1], fit_pca_basis(teacher))
        for side in (column, column + 1):
            np.testing.assert_allclose(
                tile_pixel(picture, 0, side, *HIDDEN), color, atol=1.01
            )
    # The error -1 has the first color of the color map, -0.5 the one in its middle.
    assert (tile_pixel(picture, 1, 6, *HIDDEN) <= [1, 1, 4]).all()
    assert tile_pixel(picture, 0, 6, *HIDDEN).sum() > 300


def test_target_and_prediction_must_have_the_same_shape(tmp_path):
    pairs = {'T': (np.zeros((1, 2, 2, 5)), np.zeros((1, 2, 2, 4)))}
    with pytest.raises(ValueError, match=r'\(1, 2, 2, 5\).*\(1, 2, 2, 4\)'):
        draw_pretraining(
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((1, 2, 2), bool),
            pairs,
            np.zeros((1, 2, 2)),
            tmp_path / 'x.png',
        )
