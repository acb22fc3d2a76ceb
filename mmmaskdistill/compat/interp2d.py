"""``scipy.interpolate.interp2d``, which SciPy removed in 1.14.

mmseg's and mmpretrain's BEiT resize their relative position tables with it,
hence fail to load a 224-pixel checkpoint at any other size. SciPy names
``RectBivariateSpline`` as the replacement on a regular grid: both rest on the
same FITPACK routine. Values outside the grid are those of its edge, in both.
"""

import numpy as np
import scipy.interpolate
from scipy.interpolate import RectBivariateSpline

DEGREES = dict(linear=1, cubic=3, quintic=5)


class Interp2d:
    """``interp2d`` on a regular grid.

    Args:
        x (array): Columns' coordinates, ascending, shape (W, ).
        y (array): Rows' coordinates, ascending, shape (H, ).
        z (array): Values, H * W of them, row by row.
        kind (str): ``linear``, ``cubic`` or ``quintic``.

    Raises:
        ValueError: If ``z`` is no grid; ``interp2d`` took scattered points too.
    """

    def __init__(self, x, y, z, kind: str = 'linear'):
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

    def __call__(self, x, y) -> np.ndarray:
        """Values at all pairs of the given coordinates, shape (len(y), len(x)),
        or (len(x), ) for a single y."""
        values = self.spline(np.sort(np.ravel(y)), np.sort(np.ravel(x)))
        return values[0] if len(values) == 1 else values


def apply() -> None:
    try:
        scipy.interpolate.interp2d([0, 1], [0, 1], [[0, 1], [2, 3]])
    except (AttributeError, NotImplementedError):
        scipy.interpolate.interp2d = Interp2d
