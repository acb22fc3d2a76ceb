import pytest
import torch

from mmmaskdistill.models import SmoothL1Loss


@pytest.mark.parametrize('beta', [1.0, 0.5])
def test_smooth_l1_equals_the_formula(beta):
    error = torch.randn(5, 7)
    squares = 0.5 * error**2 / beta
    lines = error.abs() - 0.5 * beta
    expected = torch.where(error.abs() < beta, squares, lines).mean()
    loss = SmoothL1Loss(beta=beta)(error, torch.zeros_like(error))
    torch.testing.assert_close(loss, expected)
