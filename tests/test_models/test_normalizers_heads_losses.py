import pytest
import torch

from mmmaskdistill.models import LayerNormalizer, LinearHead, SmoothL1Loss


def test_layer_normalizer_equals_the_formula():
    features = 3 * torch.randn(2, 5, 7) + 1
    mean = features.mean(-1, keepdim=True)
    variance = features.var(-1, unbiased=False, keepdim=True)
    expected = (features - mean) / (variance + 1e-6).sqrt()
    normalizer = LayerNormalizer()
    torch.testing.assert_close(normalizer(features), expected)
    assert not list(normalizer.parameters())


def test_linear_head_is_a_product_with_small_weights():
    head = LinearHead(4, 6)
    head.init_weights()
    assert 0 < head.weight.abs().max() <= 0.02 and not head.bias.any()
    x = torch.randn(3, 4)
    torch.testing.assert_close(head(x), x @ head.weight.T)


@pytest.mark.parametrize('beta', [1.0, 0.5])
def test_smooth_l1_equals_the_formula(beta):
    error = torch.randn(5, 7)
    squares = 0.5 * error**2 / beta
    lines = error.abs() - 0.5 * beta
    expected = torch.where(error.abs() < beta, squares, lines).mean()
    loss = SmoothL1Loss(beta=beta)(error, torch.zeros_like(error))
    torch.testing.assert_close(loss, expected)
