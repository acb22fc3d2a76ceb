import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.visualization import draw_pretraining, fit_pca_basis, pca_colors
from mmmaskdistill.visualization import figures
from mmmaskdistill.visualization.pretraining import hide_patches


def tile_pixel(picture, row, column, y, x):
    """The colour at the relative place (y, x) of a tile; titles are one line."""
    top = figures.MARGIN + figures.LINE + row * (figures.TILE + figures.GAP) + y * figures.TILE
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


def test_draw_pretraining(tmp_path):
    rng = np.random.default_rng(0)
    images = np.full((2, 32, 32, 3), 100, np.uint8)
    masks = np.zeros((2, 2, 2), bool)
    masks[:, 0, 1] = True
    teacher = rng.normal(size=(2, 2, 2, 5))
    student = np.full_like(teacher, np.nan)
    student[masks] = teacher[masks] + [[0.5], [1.0]]

    draw_pretraining(images, masks, teacher, student, tmp_path / 'new' / 'pretraining.png')

    picture = np.asarray(Image.open(tmp_path / 'new' / 'pretraining.png').convert('RGB')).astype(int)
    hidden, visible = (0.25, 0.75), (0.75, 0.25)
    assert (tile_pixel(picture, 0, 0, *hidden) == 100).all()
    assert (tile_pixel(picture, 0, 1, *hidden) == 234).all()
    assert (tile_pixel(picture, 0, 1, *visible) == 100).all()
    basis = fit_pca_basis(teacher)
    for row in range(2):
        np.testing.assert_allclose(tile_pixel(picture, row, 2, *hidden), 255 * pca_colors(teacher[row, 0, 1], basis), atol=1.01)
        np.testing.assert_allclose(tile_pixel(picture, row, 3, *hidden), 255 * pca_colors(student[row, 0, 1], basis), atol=1.01)
        for column in (3, 4):
            assert np.ptp(tile_pixel(picture, row, column, *visible)) <= 1 and tile_pixel(picture, row, column, *visible)[0] > 230
    # one scale for all errors: the larger is the end of the colour map, the smaller its middle
    np.testing.assert_allclose(tile_pixel(picture, 1, 4, *hidden), [252, 253, 191], atol=2)
    np.testing.assert_allclose(tile_pixel(picture, 0, 4, *hidden), [183, 55, 121], atol=4)


def test_shapes_must_agree(tmp_path):
    with pytest.raises(ValueError, match=r'\(1, 2, 2, 5\).*\(1, 2, 2, 4\)'):
        draw_pretraining(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 2, 2), bool), np.zeros((1, 2, 2, 5)), np.zeros((1, 2, 2, 4)),
                         tmp_path / 'x.png')
