"""Normalizers against their formulas."""

import pytest
import torch

from mmmaskdistill.models.normalizers import (
    BatchNormalizer,
    InstanceNormalizer,
    L2Normalizer,
    LayerNormalizer,
    NoNormalizer,
    PatchPixelNormalizer,
)


def test_layer_normalizer_equals_the_formula():
    features = 3 * torch.randn(2, 5, 7) + 1
    mean = features.mean(-1, keepdim=True)
    variance = features.var(-1, unbiased=False, keepdim=True)
    expected = (features - mean) / (variance + 1e-6).sqrt()
    normalizer = LayerNormalizer()
    torch.testing.assert_close(normalizer(features), expected)
    assert not list(normalizer.parameters())


@pytest.mark.parametrize(
    'kind, dims, unbiased',
    [
        (PatchPixelNormalizer, (2,), True),
        (InstanceNormalizer, (1,), False),
        (BatchNormalizer, (0, 1), False),
    ],
)
def test_variance_normalizers_equal_the_formula(kind, dims, unbiased):
    x = 3 * torch.randn(4, 5, 7, dtype=torch.float64) + 1
    variance, mean = torch.var_mean(x, dims, unbiased=unbiased, keepdim=True)
    torch.testing.assert_close(kind()(x), (x - mean) / (variance + 1e-6) ** 0.5)


def test_l2_and_no_normalizer_equal_the_formula():
    x = torch.randn(4, 5, 7)
    expected = x / x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(L2Normalizer()(x), expected)
    assert NoNormalizer()(x) is x
