"""Reading, smoothing and drawing of training logs."""

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.visualization import draw_curves, read_scalars, smooth


def test_scalars_are_sorted_and_the_last_duplicate_counts(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_text(
        '{"lr": 0.1, "loss": 2.0, "iter": 10, "step": 10}\n'
        '{"lr": 0.2, "loss": 9.0, "iter": 20, "step": 20}\n'
        '{"mIoU": 12.5, "step": 20}\n'
        '{"lr": 0.2, "loss": 1.5, "iter": 20, "step": 20}\n'
        '{"loss": 1.0, "iter": 15, "step": 15}\n'
        '{"loss": 0.5, "it'
    )
    scalars = read_scalars(log)
    np.testing.assert_array_equal(scalars['loss'], [[10, 15, 20], [2, 1, 1.5]])
    np.testing.assert_array_equal(scalars['lr'], [[10, 20], [0.1, 0.2]])
    np.testing.assert_array_equal(scalars['mIoU'], [[20], [12.5]])


def test_broken_line_is_named_in_the_error(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_text('{"loss": 1, "step": 1}\nnonsense\n{"loss": 1, "step": 2}\n')
    with pytest.raises(ValueError, match='line 2'):
        read_scalars(log)


def test_smooth_averages_over_a_window_without_nan():
    values = np.array([1.0, 2, 6, np.nan, 4])
    np.testing.assert_allclose(smooth(values, 3), [1.5, 3, 4, 5, 4])
    np.testing.assert_array_equal(smooth(values[:3], 1), values[:3])
    assert np.isnan(smooth([np.nan], 1)).all()


def test_curve_has_the_color_and_slope_of_its_data(tmp_path):
    x = np.arange(100)
    draw_curves({'rising': (x, x)}, tmp_path / 'loss.png', 'iteration', 'loss')
    picture = np.asarray(Image.open(tmp_path / 'loss.png').convert('RGB')).astype(int)
    assert picture.shape == (512, 896, 3)
    rows, cols = np.nonzero((np.abs(picture - [31, 119, 180]) < 12).all(-1))
    assert np.corrcoef(rows, cols)[0, 1] < -0.99 and np.ptp(cols) > 700
