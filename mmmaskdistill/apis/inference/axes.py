"""The sides of a large picture: windows, their weights, and resizing in parts."""

import numpy as np
import torch
from torch import Tensor


class Resizing:
    """Linear interpolation along one side, of which any part can be computed.

    The positions are those of torch's ``interpolate`` and of OpenCV's ``resize``.

    Args:
        source (int): Number of pixels before.
        target (int): Number of pixels after.
        align_corners (bool): Whether the centers of the first and the last pixels
            coincide, as in torch's ``interpolate``. Defaults to False.

    Attributes:
        first (ndarray): For each pixel after, [target], the pixel before that is to the
            left of it.
        second (ndarray): The pixel to the right of it, or again the one to the left
            where this one is not needed.
        weight (ndarray): Weight of the second pixel, from 0 to 1.
    """

    def __init__(self, source: int, target: int, align_corners: bool = False):
        places = np.arange(target, dtype=np.float64)
        if align_corners:
            places *= (source - 1) / max(target - 1, 1)
        else:
            places = (places + 0.5) * (source / target) - 0.5
        places = places.clip(0, source - 1)
        self.first = np.floor(places).astype(np.int64)
        self.weight = (places - self.first).astype(np.float32)
        self.second = self.first + (self.weight > 0)
        self.is_identity = source == target

    def needed(self, start: int, stop: int) -> slice:
        """Return the pixels before that the pixels ``start`` to ``stop`` after need.

        Args:
            start (int): First pixel after.
            stop (int): End of the pixels after, at least ``start + 1``.
        """
        return slice(int(self.first[start]), int(self.second[stop - 1]) + 1)

    def ready(self, known: int) -> int:
        """Return how many pixels after only need the first ``known`` pixels before.

        Args:
            known (int): Number of pixels before.
        """
        return int(np.searchsorted(self.second, known))

    def affected(self, pixels: slice) -> slice:
        """Return the pixels after that depend on any of some pixels before.

        Args:
            pixels (slice): Pixels before.
        """
        start = np.searchsorted(self.second, pixels.start)
        return slice(int(start), int(np.searchsorted(self.first, pixels.stop)))

    def apply(self, x: Tensor, dim: int, start: int, stop: int, offset: int) -> Tensor:
        """Compute the pixels ``start`` to ``stop`` after.

        Args:
            x (Tensor): Values of the pixels before, of which ``x`` has those that are
                needed.
            dim (int): Dimension of this side in ``x``.
            start (int): First pixel after.
            stop (int): End of the pixels after.
            offset (int): Pixel before that is the first one in ``x``.

        Returns:
            Tensor: ``x`` with ``stop - start`` pixels in this dimension.
        """
        first, second, weight = (
            torch.from_numpy(values[start:stop]).to(x.device)
            for values in (self.first - offset, self.second - offset, self.weight)
        )
        if self.is_identity:
            return x.narrow(dim, int(first[0]), len(first))
        shape = [-1 if k == dim % x.ndim else 1 for k in range(x.ndim)]
        left, right = x.index_select(dim, first), x.index_select(dim, second)
        return torch.lerp(left, right, weight.view(shape))


class Axis:
    """One side of a picture that is computed in overlapping windows.

    The weight of a window's pixels falls from its middle to its ends as the square of
    a sine, and the weights of all windows at a pixel add up to 1.

    Args:
        size (int): Length of the picture's side in pixels.
        tile (int): Length of a window at the resolution of the model.
        stride (int): Largest distance between two windows; the windows lie evenly.
        scale (float): Resolution of the model relative to that of the picture.
        align_corners (bool): See :class:`Resizing`, for resizing the logits.

    Attributes:
        length (int): Length of the side at the resolution of the model.
        windows (list[slice]): The windows at the resolution of the model.
        weights (list[Tensor]): The weights of each window's pixels.
        inward (Resizing): From the picture to the resolution of the model.
        outward (Resizing): From the resolution of the model to the picture.
    """

    def __init__(
        self, size: int, tile: int, stride: int, scale: float, align_corners: bool
    ):
        self.size = size
        self.length = max(1, int(size * scale + 0.5))
        tile = min(tile, self.length)
        free = self.length - tile
        number = -(-free // stride) + 1
        starts = [k * free // max(number - 1, 1) for k in range(number)]
        self.windows = [slice(start, start + tile) for start in starts]
        bump = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
        total = np.zeros(self.length)
        for window in self.windows:
            total[window] += bump
        self.weights = [
            torch.from_numpy((bump / total[window]).astype(np.float32))
            for window in self.windows
        ]
        self.inward = Resizing(size, self.length)
        self.outward = Resizing(self.length, size, align_corners)
