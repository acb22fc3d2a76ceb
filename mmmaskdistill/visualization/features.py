"""Show features as colors."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from .figures import to_numpy


class PCABasis(NamedTuple):
    """The map from features of D channels to colors in the RGB cube.

    Attributes:
        mean (np.ndarray): Mean of the features [D].
        components (np.ndarray): Principal components [D, 3], which are
            orthonormal columns.
        low (np.ndarray): Projections that are drawn as 0, [3].
        high (np.ndarray): Projections that are drawn as 1, [3].
    """

    mean: np.ndarray
    components: np.ndarray
    low: np.ndarray
    high: np.ndarray


def fit_pca_basis(features: np.ndarray | Tensor) -> PCABasis:
    """Compute the first three principal components of features.

    The 2nd and the 98th percentile of the projections are drawn as 0 and 1.
    Otherwise a few outliers would make all other colors gray. The sign of a
    component is arbitrary, so it is chosen to make the largest entry positive.

    Args:
        features (np.ndarray | Tensor): Features [..., D].

    Returns:
        PCABasis: The map from features to colors.

    Raises:
        ValueError: If the features have fewer than three channels.
    """
    features = to_numpy(features).astype(np.float64)
    features = features.reshape(-1, features.shape[-1])
    if features.shape[-1] < 3:
        raise ValueError(
            f'features have {features.shape[-1]} channels, but three principal '
            'components need at least 3'
        )
    mean = features.mean(axis=0)
    centered = features - mean
    _, vectors = np.linalg.eigh(centered.T @ centered)
    # `eigh` sorts by ascending eigenvalue, so the last three columns are taken in
    # reverse order.
    components = vectors[:, :-4:-1]  # [D, 3]
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, range(3)])
    low, high = np.percentile(centered @ components, (2, 98), axis=0)
    return PCABasis(mean, components, low, high)


def pca_colors(
    features: np.ndarray | Tensor, basis: PCABasis | None = None
) -> np.ndarray:
    """Color features by their first three principal components.

    Args:
        features (np.ndarray | Tensor): Features [..., D] of the tokens of one or
            several images.
        basis (PCABasis, optional): The basis of other features, for example the
            teacher's, which makes the colors comparable. Defaults to None, the
            basis of the features themselves.

    Returns:
        np.ndarray: Colors [..., 3] between 0 and 1.

    Raises:
        ValueError: If no basis is given and the features have fewer than three
            channels.
    """
    basis = basis or fit_pca_basis(features)
    projected = (to_numpy(features).astype(np.float64) - basis.mean) @ basis.components
    span = np.maximum(basis.high - basis.low, np.finfo(np.float64).tiny)
    return np.clip((projected - basis.low) / span, 0, 1)
