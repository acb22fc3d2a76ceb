import numpy as np
import pytest
import torch

from mmmaskdistill.visualization import fit_pca_basis, pca_colors


def anisotropic(num, dims=10, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(num, dims))
        * np.linspace(3, 0.5, dims)
        @ np.linalg.qr(rng.normal(size=(dims, dims)))[0]
        + 5
    )


def test_components_are_those_of_sklearn():
    decomposition = pytest.importorskip('sklearn.decomposition')
    features = anisotropic(500)
    basis = fit_pca_basis(features)
    expected = decomposition.PCA(3).fit(features)
    np.testing.assert_allclose(basis.mean, expected.mean_, atol=1e-10)
    np.testing.assert_allclose(
        np.abs(np.diag(expected.components_ @ basis.components)), 1, atol=1e-8
    )


def test_sign_does_not_depend_on_order_of_tokens():
    features = anisotropic(300)
    np.testing.assert_allclose(
        fit_pca_basis(features[::-1]).components,
        fit_pca_basis(features).components,
        atol=1e-9,
    )
    components = fit_pca_basis(features).components
    assert (components[np.abs(components).argmax(0), range(3)] > 0).all()


def test_colors_span_the_percentiles():
    features = anisotropic(1000)
    basis = fit_pca_basis(features)
    colors = pca_colors(features.reshape(10, 10, 10, -1))
    assert colors.shape == (10, 10, 10, 3)
    assert (colors == 0).mean() == pytest.approx(0.02, abs=1e-3) and (
        colors == 1
    ).mean() == pytest.approx(0.02, abs=1e-3)
    middle = basis.mean + basis.components @ (basis.low + basis.high) / 2
    np.testing.assert_allclose(pca_colors(middle, basis), 0.5, atol=1e-9)


def test_colors_on_another_basis():
    teacher, student = anisotropic(200), anisotropic(200) + 0.3
    basis = fit_pca_basis(teacher)
    np.testing.assert_array_equal(pca_colors(teacher, basis), pca_colors(teacher))
    assert np.abs(pca_colors(student, basis) - pca_colors(teacher)).mean() > 0.01
    np.testing.assert_allclose(
        pca_colors(student), pca_colors(teacher), atol=1e-8
    )  # a shift vanishes on one's own basis


def test_tensors_are_taken_as_they_come():
    features = torch.from_numpy(anisotropic(50)).to(torch.bfloat16).requires_grad_()
    np.testing.assert_array_equal(
        pca_colors(features), pca_colors(features.detach().float().numpy())
    )


def test_too_few_channels():
    with pytest.raises(ValueError, match='2 channels'):
        pca_colors(np.zeros((4, 2)))
