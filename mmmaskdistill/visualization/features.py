"""Features as colours."""

from typing import NamedTuple

import numpy as np

from .figures import to_numpy


class PCABasis(NamedTuple):
    """Where a D-dimensional feature falls in the RGB cube."""

    mean: np.ndarray  # [D]
    components: np.ndarray  # [D, 3], orthonormal columns
    low: np.ndarray  # [3], projections drawn as 0
    high: np.ndarray  # [3], projections drawn as 1


def fit_pca_basis(features) -> PCABasis:
    """The first three principal components of features [..., D].

    The 2nd and 98th percentiles become 0 and 1, so that a few outliers do not grey the rest. A component's largest entry is made
    positive, since its sign is arbitrary.
    """
    features = to_numpy(features).astype(np.float64)
    features = features.reshape(-1, features.shape[-1])
    if features.shape[-1] < 3:
        raise ValueError(
            f'features have {features.shape[-1]} channels, three principal components need at least 3'
        )
    mean = features.mean(axis=0)
    centred = features - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = vectors[:, :-4:-1]  # eigh sorts upwards
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, range(3)])
    low, high = np.percentile(centred @ components, (2, 98), axis=0)
    return PCABasis(mean, components, low, high)


def pca_colors(features, basis: PCABasis | None = None) -> np.ndarray:
    """Colour features by their first three principal components.

    Args:
        features: [..., D], tokens of one or several images.
        basis: the basis of other features, a teacher's say, to make the colours comparable. Their own when None.

    Returns:
        [..., 3] in 0..1
    """
    basis = basis or fit_pca_basis(features)
    projected = (to_numpy(features).astype(np.float64) - basis.mean) @ basis.components
    span = np.maximum(basis.high - basis.low, np.finfo(np.float64).tiny)
    return np.clip((projected - basis.low) / span, 0, 1)
