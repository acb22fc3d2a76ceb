"""Pictures of confusion matrices."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from mmmaskdistill.visualization import draw_confusion, figures


def picture_of(path):
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def darkest_and_gray(picture):
    """Whether each pixel has the color of 100 %, and that of an empty row."""
    blue = np.array(colormaps['Blues'](1.0)[:3]) * 255
    full = (np.abs(picture - blue) < 2).all(-1)
    gray = (np.abs(picture - 0.9 * 255) < 2).all(-1)
    return full, gray


def test_rows_are_shares_and_the_row_of_an_absent_class_is_gray(tmp_path):
    matrix = [[0, 7, 0], [0, 0, 0], [0, 0, 1000]]
    draw_confusion(matrix, ['a', 'b', 'c'], tmp_path / 'new' / 'c.png')
    full, gray = darkest_and_gray(picture_of(tmp_path / 'new' / 'c.png'))
    side = 0.6 * figures.DPI
    # 7 of 7 pixels are as dark as 1000 of 1000; numbers are written over both.
    columns = full.sum(0)
    left = (columns > 0.6 * side).argmax()
    for start in (left, left + side):
        assert columns[round(start + 4) : round(start + side / 4)].mean() > 0.9 * side
    assert gray.sum() == pytest.approx(3 * side**2, rel=0.02)


@pytest.mark.parametrize('number, cell', [(2, 0.6), (30, 0.3), (150, 0.13)])
def test_cells_are_large_enough_for_names(tmp_path, number, cell):
    matrix = np.zeros((number, number), int)
    draw_confusion(matrix, ['wall'] * number, tmp_path / 'c.png')
    _, gray = darkest_and_gray(picture_of(tmp_path / 'c.png'))
    side = np.sqrt(gray.sum()) / figures.DPI / number
    assert side == pytest.approx(cell, rel=0.03)
    # At this size a line of 7 points has 14 pixels.
    assert side * 72 >= 9


def test_a_thousand_classes_have_no_names(tmp_path):
    draw_confusion(np.eye(1000, dtype=int), ['x' * 90] * 1000, tmp_path / 'c.png')
    height, width, _ = picture_of(tmp_path / 'c.png').shape
    assert max(height, width) < 2000


def test_names_of_any_kind_are_drawn(tmp_path):
    names = ['_background_', r'$\alpha$ $x', 'x' * 300, 'a\nb', '']
    draw_confusion(np.ones((5, 5), int), names, tmp_path / 'c.png')
    assert max(picture_of(tmp_path / 'c.png').shape) < 1500


def test_there_must_be_a_name_for_each_row(tmp_path):
    with pytest.raises(ValueError, match=r'shape \(2, 2\), but there are 3 names'):
        draw_confusion(np.eye(2), ['a', 'b', 'c'], tmp_path / 'c.png')
