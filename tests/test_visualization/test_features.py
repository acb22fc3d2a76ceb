"""Colors of features by their principal components."""

import numpy as np
import pytest
import torch

from mmmaskdistill.visualization import fit_pca_basis, pca_colors


def anisotropic(num, dims=10, seed=0):
    """Draw features [num, dims] whose variance differs between directions."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, dims)) * np.linspace(3, 0.5, dims)
    rotation = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    return features @ rotation + 5


def test_components_equal_those_of_sklearn():
    decomposition = pytest.importorskip('sklearn.decomposition')
    features = anisotropic(500)
    basis = fit_pca_basis(features)
    expected = decomposition.PCA(3).fit(features)
    np.testing.assert_allclose(basis.mean, expected.mean_, atol=1e-10)
    np.testing.assert_allclose(
        np.abs(np.diag(expected.components_ @ basis.components)), 1, atol=1e-8
    )


def test_signs_do_not_depend_on_the_order_of_tokens():
    features = anisotropic(300)
    np.testing.assert_allclose(
        fit_pca_basis(features[::-1]).components,
        fit_pca_basis(features).components,
        atol=1e-9,
    )
    components = fit_pca_basis(features).components
    assert (components[np.abs(components).argmax(0), range(3)] > 0).all()


def test_colors_range_from_the_2nd_to_the_98th_percentile():
    features = anisotropic(1000)
    basis = fit_pca_basis(features)
    colors = pca_colors(features.reshape(10, 10, 10, -1))
    assert colors.shape == (10, 10, 10, 3)
    assert (colors == 0).mean() == pytest.approx(0.02, abs=1e-3)
    assert (colors == 1).mean() == pytest.approx(0.02, abs=1e-3)
    middle = basis.mean + basis.components @ (basis.low + basis.high) / 2
    np.testing.assert_allclose(pca_colors(middle, basis), 0.5, atol=1e-9)


def test_features_can_be_colored_on_another_basis():
    teacher, student = anisotropic(200), anisotropic(200) + 0.3
    basis = fit_pca_basis(teacher)
    np.testing.assert_array_equal(pca_colors(teacher, basis), pca_colors(teacher))
    assert np.abs(pca_colors(student, basis) - pca_colors(teacher)).mean() > 0.01
    # The student's own basis removes the shift.
    np.testing.assert_allclose(pca_colors(student), pca_colors(teacher), atol=1e-8)


def test_tensors_may_be_bfloat16_and_require_gradients():
    features = torch.from_numpy(anisotropic(50)).to(torch.bfloat16).requires_grad_()
    np.testing.assert_array_equal(
        pca_colors(features), pca_colors(features.detach().float().numpy())
    )


def test_features_with_too_few_channels_are_refused():
    with pytest.raises(ValueError, match='2 channels'):
        pca_colors(np.zeros((4, 2)))
