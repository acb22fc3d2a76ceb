import numpy as np
import pytest

from mmmaskdistill.datasets.draws import seed_generators
from mmmaskdistill.datasets.masking import NoMaskGenerator, UniformMaskGenerator
from mmmaskdistill.errors import ConfigError


@pytest.mark.parametrize('unit', [1, 2])
def test_squares_are_hidden_equally_often(unit):
    """Every mask hides the same number of whole squares.

    All squares are hidden equally often, and a seed gives the same mask again.
    """
    draw = UniformMaskGenerator((6, 8), 12, unit)
    seed_generators(0)
    masks = np.stack([draw({})['mask'] for _ in range(2000)])
    assert masks.shape == (2000, 6, 8) and masks.dtype == np.int64
    assert (masks.sum((1, 2)) == 12).all()
    squares = masks.reshape(2000, 6 // unit, unit, 8 // unit, unit)
    assert (squares == squares[:, :, :1, :, :1]).all()
    # Frequencies differ from 12 / 48 by less than five standard errors.
    assert abs(masks.mean(0) - 0.25).max() < 5 * (0.25 * 0.75 / 2000) ** 0.5
    seed_generators(0)
    np.testing.assert_array_equal(draw({})['mask'], masks[0])


def test_no_mask_generator_hides_nothing():
    mask = NoMaskGenerator(7)({})['mask']
    assert mask.shape == (7, 7) and mask.dtype == np.int64 and not mask.any()


@pytest.mark.parametrize(
    'grid, hidden, unit, message',
    [
        ((6, 8), 0, 1, 'num_masking_patches=0: expected 1 to 48'),
        ((6, 8), 50, 1, 'num_masking_patches=50: expected 1 to 48'),
        ((7, 7), 9, 3, r'unit=3: .*grid \(7, 7\)'),
        ((6, 8), 13, 2, 'unit=2: .*num_masking_patches=13'),
        ((6, 8), 12, 0, 'unit=0: expected'),
    ],
)
def test_masks_that_do_not_fit_the_grid_are_refused(grid, hidden, unit, message):
    with pytest.raises(ConfigError, match=message):
        UniformMaskGenerator(grid, hidden, unit)
