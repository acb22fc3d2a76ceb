import numpy as np
import pytest
import scipy.interpolate
import torch
from mmengine.utils import digit_version

from mmmaskdistill.compat.interp2d import Interp2d

X = np.array([-5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0])
Y = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])


def polynomial(x, y):
    """A polynomial of degree 3 that is not symmetric in x and y."""
    return (x**3 - 2 * x + 1) * (0.5 * y**3 + y**2) + 3 * x - y


@pytest.mark.skipif(
    digit_version(scipy.__version__) < digit_version('1.14'),
    reason='SciPy before 1.14 has a working interp2d',
)
def test_scipys_own_interp2d_is_not_implemented():
    from scipy.interpolate._interpolate import interp2d

    with pytest.raises(NotImplementedError):
        interp2d(X, Y, np.zeros((len(Y), len(X))), kind='cubic')


def test_cubic_reproduces_a_cubic_polynomial():
    f = Interp2d(X, Y, polynomial(X, Y[:, None]), kind='cubic')
    x, y = np.linspace(-5, 5, 13), np.linspace(-3, 3, 8)
    np.testing.assert_allclose(f(x, y), polynomial(x, y[:, None]), atol=1e-9)


def test_default_interpolation_is_linear():
    f = Interp2d([0, 1, 2], [0, 2], [[0, 1, 2], [10, 11, 12]])
    np.testing.assert_allclose(f([0.5, 1.5], [1]), [5.5, 6.5])


def test_points_outside_get_the_value_at_the_edge():
    f = Interp2d(X, Y, polynomial(X, Y[:, None]), kind='cubic')
    np.testing.assert_allclose(f([9], [7]), [polynomial(5.0, 3.0)])


def test_values_that_do_not_form_a_grid_are_refused():
    with pytest.raises(ValueError, match='2 x 3 points, got 5'):
        Interp2d([0, 1, 2], [0, 1], np.zeros(5))


def test_mmpretrain_and_mmseg_beit_resize_tables_alike():
    from mmpretrain.models.utils.embed import resize_relative_position_bias_table
    from mmseg.models.backbones.beit import BEiT

    heads = 2
    table = torch.randn(27 * 27, heads)
    by_mmpretrain = resize_relative_position_bias_table(27, 63, table, heads)
    beit = BEiT(img_size=64, embed_dims=8, num_layers=1, num_heads=heads, mlp_ratio=1)
    by_mmseg = beit._geometric_sequence_interpolation(27, 63, table, heads)

    assert by_mmpretrain.shape == (63 * 63, heads)
    torch.testing.assert_close(by_mmpretrain, by_mmseg)
    # Resizing keeps the entries of offset 0 and of its direct neighbors.
    large, small = by_mmpretrain.view(63, 63, heads), table.view(27, 27, heads)
    torch.testing.assert_close(large[31, 30:33], small[13, 12:15])
    torch.testing.assert_close(large[30:33, 31], small[12:15, 13])
