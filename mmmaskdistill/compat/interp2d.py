"""Provide ``scipy.interpolate.interp2d``, which SciPy removed in version 1.14.

mmseg's and mmpretrain's BEiT use it to resize relative position tables. Without it,
they cannot load a checkpoint for 224 pixels at any other image size. SciPy names
``RectBivariateSpline`` as the replacement on a regular grid. Both use the same
FITPACK routine, and both return the values of the grid's edge outside the grid.
"""

import numpy as np
import scipy.interpolate
from numpy.typing import ArrayLike
from scipy.interpolate import RectBivariateSpline

DEGREES = dict(linear=1, cubic=3, quintic=5)


class Interp2d:
    """A replacement of ``interp2d`` for values on a regular grid.

    ``interp2d`` also accepted scattered points. This class does not.

    Args:
        x (ArrayLike): Coordinates of the columns [W], ascending.
        y (ArrayLike): Coordinates of the rows [H], ascending.
        z (ArrayLike): Values at the grid points, row by row, [H, W] or [H * W].
        kind (str): Kind of the spline: ``linear``, ``cubic`` or ``quintic``.
            Defaults to ``'linear'``.

    Raises:
        ValueError: If the number of values is not H * W.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike, z: ArrayLike, kind: str = 'linear'):
        x, y, z = np.ravel(x), np.ravel(y), np.asarray(z)
        if z.size != len(x) * len(y):
            raise ValueError(
                f'expected values on a grid of {len(y)} x {len(x)} points, '
                f'got {z.size}; for scattered points use '
                'scipy.interpolate.bisplrep'
            )
        degree = DEGREES[kind]
        self.spline = RectBivariateSpline(
            y, x, z.reshape(len(y), len(x)), kx=degree, ky=degree
        )

    def __call__(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Interpolate at all pairs of the given coordinates.

        Args:
            x (ArrayLike): Coordinates of the columns [w]. They are sorted first.
            y (ArrayLike): Coordinates of the rows [h]. They are sorted first.

        Returns:
            np.ndarray: Interpolated values [h, w], or [w] if there is only one
            row.
        """
        values = self.spline(np.sort(np.ravel(y)), np.sort(np.ravel(x)))
        return values[0] if len(values) == 1 else values


def apply() -> None:
    """Provide ``scipy.interpolate.interp2d`` if SciPy's own does not work."""
    try:
        scipy.interpolate.interp2d([0, 1], [0, 1], [[0, 1], [2, 3]])
    except (AttributeError, NotImplementedError):
        scipy.interpolate.interp2d = Interp2d
