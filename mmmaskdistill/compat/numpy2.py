"""Let code of the toolkits that was written for numpy 1 run with numpy 2.

- mmcv 2.1.0 shifts the hue of a picture by ``np.uint8(hue_factor * 255)``. numpy 2
  does not convert negative numbers to ``uint8``, so half of the draws of mmpretrain's
  ``ColorJitter(hue=...)`` raise an ``OverflowError``.
- mmpretrain 1.2.0 calls ``np.in1d`` in its retrieval metrics, which numpy 2.4 has
  removed, and mmcv 2.1.0 ``np.float`` in ``pixel_group``, which numpy 1.24 has removed.

All other attributes of numpy that mmengine 0.10.7, mmcv 2.1.0, mmseg 1.2.2 and
mmpretrain 1.2.0 use exist in numpy 2.4.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cv2
import mmcv
import mmcv.image
import numpy as np
from mmcv.image import photometric
from PIL import Image

from .wrapping import wrap


class Numpy(ModuleType):
    """numpy, with names that it had before.

    Args:
        **names: What the names stand for.
    """

    def __init__(self, **names: Any):
        super().__init__('numpy')
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def in1d(ar1: np.ndarray, ar2: np.ndarray, **kwargs) -> np.ndarray:
    """Replace ``np.in1d``, which has flat results.

    Args:
        ar1 (np.ndarray): The elements to look for.
        ar2 (np.ndarray): The elements in which they are looked for.
        **kwargs: Arguments of ``np.isin``.

    Returns:
        np.ndarray: Whether each element of ``ar1`` is in ``ar2``.
    """
    return np.isin(np.asarray(ar1).ravel(), ar2, **kwargs)


OLD_NAMES = {
    'mmcv.ops.pixel_group': dict(float=float),
    'mmpretrain.evaluation.metrics.retrieval': dict(in1d=in1d),
}


def shift_hue(img: np.ndarray, shift: int, backend: str) -> np.ndarray:
    """Turn the hue of a picture as mmcv does.

    Args:
        img (np.ndarray): The picture with the channels blue, green and red,
            [H, W, 3].
        shift (int): Part of the hue circle, of which 256 are the whole. It may be
            negative.
        backend (str): ``'cv2'`` or ``'pillow'``, the library that converts between
            the color spaces.

    Returns:
        np.ndarray: The picture, [H, W, 3], of the same data type.
    """
    if backend == 'pillow':
        hsv = np.array(Image.fromarray(img[..., ::-1].copy()).convert('HSV'))
    else:
        hsv = cv2.cvtColor(img.astype(np.uint8), cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(shift % 256)
    if backend == 'pillow':
        rgb = Image.frombytes('HSV', hsv.shape[1::-1], hsv.tobytes()).convert('RGB')
        return np.array(rgb, dtype=img.dtype)[..., ::-1]
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL).astype(img.dtype)


def apply() -> None:
    """Mend ``mmcv.adjust_hue``, and give modules the names that they use."""

    @wrap(photometric, 'adjust_hue')
    def adjust_hue(
        original: Callable,
        img: np.ndarray,
        hue_factor: float,
        backend: str | None = None,
    ):
        backend = backend or photometric.imread_backend
        is_color = isinstance(img, np.ndarray) and img.shape[2:] == (3,)
        known = backend == 'cv2' or (backend == 'pillow' and img.dtype == np.uint8)
        if -0.5 <= hue_factor < 0 and is_color and known:
            return shift_hue(img, int(hue_factor * 255), backend)
        return original(img, hue_factor, backend)

    mmcv.adjust_hue = mmcv.image.adjust_hue = photometric.adjust_hue
    for module, names in OLD_NAMES.items():
        missing = {key: value for key, value in names.items() if not hasattr(np, key)}
        if missing:
            importlib.import_module(module).np = Numpy(**missing)
