"""Show features as colors."""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
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


def fit_pca_basis(features: np.ndarray | Tensor | Iterable[np.ndarray]) -> PCABasis:
    """Compute the first three principal components of features.

    The 2nd and the 98th percentile of the projections are drawn as 0 and 1.
    Otherwise a few outliers would make all other colors gray. The sign of a
    component is arbitrary, so it is chosen to make the largest entry positive.

    Args:
        features (np.ndarray | Tensor | Iterable[np.ndarray]): Features [..., D], or
            several such arrays, for example one for each image. They are iterated
            over three times and need not fit into memory together.

    Returns:
        PCABasis: The map from features to colors.

    Raises:
        ValueError: If the features have fewer than three channels.
    """
    parts = [features] if isinstance(features, (np.ndarray, Tensor)) else features
    count, total = 0, 0.0
    for part in map(_flat, parts):
        count, total = count + len(part), total + part.sum(axis=0)
    mean = total / count
    if len(mean) < 3:
        raise ValueError(
            f'features have {len(mean)} channels, but three principal '
            'components need at least 3'
        )
    gram = sum((part - mean).T @ (part - mean) for part in map(_flat, parts))
    _, vectors = np.linalg.eigh(gram)
    # `eigh` sorts by ascending eigenvalue, so the last three columns are taken in
    # reverse order.
    components = vectors[:, :-4:-1]  # [D, 3]
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, range(3)])
    projected = [(part - mean) @ components for part in map(_flat, parts)]
    low, high = np.percentile(np.concatenate(projected), (2, 98), axis=0)
    return PCABasis(mean, components, low, high)


def _flat(features: np.ndarray | Tensor) -> np.ndarray:
    """Return features [..., D] as [N, D] float64."""
    features = to_numpy(features).astype(np.float64)
    return features.reshape(-1, features.shape[-1])


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


def pca_picture(image: np.ndarray, colors: np.ndarray, gap: int = 8) -> np.ndarray:
    """Show an image and, to the right of it, the colors of its patches.

    Args:
        image (np.ndarray): The image [H, W, 3], uint8.
        colors (np.ndarray): Colors [h, w, 3] from :func:`pca_colors`.
        gap (int): Width of the white space between them, in pixels. Defaults to 8.

    Returns:
        np.ndarray: The picture [H, 2 * W + gap, 3], uint8.
    """
    height, width = image.shape[:2]
    colors = np.rint(255 * colors).astype(np.uint8)
    colors = cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)
    space = np.full((height, gap, 3), 255, np.uint8)
    return np.concatenate([image, space, colors], axis=1)
