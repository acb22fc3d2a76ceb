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
    """The colour at the relative place (y, x) of a tile; titles are one line."""
    top = (
        figures.MARGIN
        + figures.LINE
        + row * (figures.TILE + figures.GAP)
        + y * figures.TILE
    )
    left = figures.MARGIN + column * (figures.TILE + figures.GAP) + x * figures.TILE
    return picture[round(top * figures.DPI), round(left * figures.DPI)]


def test_hide_patches():
    image = np.full((8, 12, 3), 7, np.uint8)
    mask = np.array([[True, False, False], [False, False, True]])
    hidden = hide_patches(image, mask)
    assert (hidden[:4, :4] == 234).all() and (hidden[4:, 8:] == 234).all()
    assert (hidden == 7).sum() == 4 * 16 * 3
    with pytest.raises(ValueError, match='no grid'):
        hide_patches(image, np.zeros((3, 3), bool))


def test_hide_patches_that_the_image_cuts():
    """100 pixels take four patches of 32, the last of 4 pixels."""
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


def test_draw_pretraining(tmp_path):
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
            assert (
                np.ptp(tile_pixel(picture, row, column, *VISIBLE)) <= 1
                and tile_pixel(picture, row, column, *VISIBLE)[0] > 230
            )
    # one scale for all errors: the larger is the end of the colour map, the smaller its middle
    np.testing.assert_allclose(
        tile_pixel(picture, 1, 4, *HIDDEN), [252, 253, 191], atol=2
    )
    np.testing.assert_allclose(
        tile_pixel(picture, 0, 4, *HIDDEN), [183, 55, 121], atol=4
    )


def test_codes_have_a_colour_each(tmp_path):
    """The same in every picture and on both sides; no prediction is blank."""
    teacher = np.arange(8).reshape(2, 2, 2)
    student = np.full_like(teacher, -1)
    student[:, 0, 1] = [teacher[0, 0, 1], 7]
    draw_pretraining(
        IMAGES, MASKS, {'T': (teacher, student)}, ERRORS, tmp_path / 'codes.png'
    )

    picture = read(tmp_path / 'codes.png')
    colours = 255 * code_colors(np.arange(8))
    assert len(np.unique(colours.round(), axis=0)) == 8
    for row, code in enumerate((1, 7)):
        np.testing.assert_allclose(
            tile_pixel(picture, row, 2, *HIDDEN), colours[teacher[row, 0, 1]], atol=1.01
        )
        np.testing.assert_allclose(
            tile_pixel(picture, row, 3, *HIDDEN), colours[code], atol=1.01
        )
        assert (tile_pixel(picture, row, 3, *VISIBLE) > 230).all()
    np.testing.assert_array_equal(
        code_colors(np.array([3, 8191]))[0], code_colors(np.arange(4))[3]
    )


def test_each_teacher_has_its_columns_and_errors_may_be_negative(tmp_path):
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

    picture = read(tmp_path / 'two.png')[
        round(2 * figures.LINE * figures.DPI) :
    ]  # titles of three lines
    for column, (teacher, _) in zip((2, 4), pairs.values()):
        colour = 255 * pca_colors(teacher[0, 0, 1], fit_pca_basis(teacher))
        for side in (column, column + 1):
            np.testing.assert_allclose(
                tile_pixel(picture, 0, side, *HIDDEN), colour, atol=1.01
            )
    # -1 is the beginning of the colour map, -0.5 its middle
    assert (tile_pixel(picture, 1, 6, *HIDDEN) <= [1, 1, 4]).all()
    assert tile_pixel(picture, 0, 6, *HIDDEN).sum() > 300


def test_shapes_must_agree(tmp_path):
    pairs = {'T': (np.zeros((1, 2, 2, 5)), np.zeros((1, 2, 2, 4)))}
    with pytest.raises(ValueError, match=r'\(1, 2, 2, 5\).*\(1, 2, 2, 4\)'):
        draw_pretraining(
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((1, 2, 2), bool),
            pairs,
            np.zeros((1, 2, 2)),
            tmp_path / 'x.png',
        )
