import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from timm.models.beit import gen_relative_position_index

from mmmaskdistill.models.layers import (
    RelativePositionBias,
    relative_position_bias,
    resize_relative_position_table,
    table_length,
)
from mmmaskdistill.models.layers.relative_position import relative_position_index


def reference_knots(source, target):
    """Compute the knots by the geometric rule as its authors describe it."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        length = sum(q**i for i in range(source // 2))
        low, high = (low, q) if length > target // 2 else (q, high)
    knots, position = [0.0], 0.0
    for i in range(source // 2):
        position += q**i
        knots = [-position, *knots, position]
    return np.array(knots)


@pytest.mark.parametrize('grid', [(1, 1), (2, 2), (4, 6), (14, 14)])
def test_index_equals_timms(grid):
    index = relative_position_index(grid, torch.device('cpu'))
    assert torch.equal(index, gen_relative_position_index(grid))


@pytest.mark.parametrize(
    'source, target',
    [
        ((14, 14), (32, 32)),
        ((14, 14), (10, 10)),
        ((8, 8), (8, 12)),
        ((16, 16), (37, 16)),
    ],
)
def test_resizing_equals_the_geometric_spline(source, target):
    heads = 2
    table = torch.randn(table_length(source), heads, dtype=torch.float64)
    resized = resize_relative_position_table(table, source, target)
    assert resized.shape == (table_length(target), heads)
    knots = [
        reference_knots(2 * s - 1, 2 * t - 1) if s != t else np.arange(1.0 - s, s)
        for s, t in zip(source, target)
    ]
    offsets = [np.arange(1.0 - t, t) for t in target]
    for head in range(heads):
        grid = table[:-3, head].view(2 * source[0] - 1, -1).numpy()
        expected = RectBivariateSpline(*knots, grid)(*offsets)
        np.testing.assert_allclose(
            resized[:-3, head].view(2 * target[0] - 1, -1).numpy(), expected, atol=1e-10
        )
    assert torch.equal(resized[-3:], table[-3:])


# Values of the reference formula with `interp2d(x, y, z, kind='cubic')` of SciPy 1.13.1
# for the table in test_resizing_equals_interp2d, at (row, column) of the resized table.
INTERP2D = {
    (14, 32): {
        (0, 0): 7.442181439840692e-06,
        (0, 62): -0.8834580149548094,
        (3, 33): 0.16006425936443647,
        (30, 32): 0.10779316673177716,
        (35, 5): 0.05165972369556837,
        (61, 56): 0.24780142079850687,
    },
    (16, 37): {
        (0, 0): 9.4882222269987e-18,
        (0, 72): -0.27941549819892586,
        (3, 38): -0.23197514319777024,
        (35, 37): -0.05793180049833391,
        (40, 5): -0.19194355520276477,
        (71, 66): -0.2688015715678132,
    },
}
SUMS = {(14, 32): 1712.1869799892188, (16, 37): 2184.695996995061}


@pytest.mark.parametrize('source, target', INTERP2D)
def test_resizing_equals_interp2d(source, target):
    """The sizes are those of ViT-B/16 and L/16, and ViT-H/14, at 224 and 512 pixels."""
    row, column = torch.meshgrid(
        *2 * [torch.arange(2.0 * source - 1, dtype=torch.float64)], indexing='ij'
    )
    table = (0.3 * row + 0.01 * row**2).cos() * (0.2 * column).sin()
    table = torch.cat([table.flatten(), torch.zeros(3)])[:, None]
    resized = resize_relative_position_table(table, 2 * (source,), 2 * (target,))
    resized = resized[:-3].view(2 * target - 1, -1)
    for position, value in INTERP2D[source, target].items():
        assert resized[position] == pytest.approx(value, rel=1e-7, abs=1e-9)
    assert resized.abs().sum() == pytest.approx(SUMS[source, target])


def test_resizing_passes_gradients():
    table = torch.randn(table_length((3, 3)), 2, dtype=torch.float64)
    table.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t: resize_relative_position_table(t, (3, 3), (5, 4)), table
    )


def test_grid_of_2_by_2_patches_can_be_resized():
    table = torch.arange(12.0).view(12, 1)
    resized = resize_relative_position_table(table, (2, 2), (3, 3))
    assert resized.shape == (table_length((3, 3)), 1)
    assert resized[:-3].view(5, 5)[2, 2] == table[:-3].view(3, 3)[1, 1]


def test_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match='12 rows does not belong to a 3 x 3'):
        resize_relative_position_table(torch.zeros(12, 1), (3, 3), (4, 4))


def test_bias_depends_only_on_the_offset():
    bias = RelativePositionBias((3, 4), num_heads=2)
    torch.nn.init.normal_(bias.relative_position_bias_table)
    values = bias((3, 4))
    assert values.shape == (2, 13, 13)
    patches = values[:, 1:, 1:].unflatten(2, (3, 4)).unflatten(1, (3, 4))
    # Two pairs of patches have the same offset: one row up and one column right.
    assert torch.equal(patches[:, 1, 0, 0, 1], patches[:, 2, 2, 1, 3])
    table = bias.relative_position_bias_table
    assert torch.equal(values[:, 0, 1], table[-3])
    assert torch.equal(values[:, 1, 0], table[-2])
    assert torch.equal(values[:, 0, 0], table[-1])


def test_index_made_in_inference_mode_can_be_used_for_training():
    table = torch.zeros(table_length((5, 3)), 1, requires_grad=True)
    with torch.inference_mode():
        relative_position_bias(table, (5, 3), (5, 3))
    relative_position_bias(table, (5, 3), (5, 3)).sum().backward()
    assert table.grad.sum() == 16**2
