"""Refuse images that mmseg's and mmpretrain's color transforms would damage.

The transforms of mmseg 1.2.2 and mmpretrain 1.2.0 that change colors are made for RGB
images of 8 bits. Other images either end in an assertion of OpenCV that names neither
the transform nor the file, or are changed without a word: values are cut off at 255,
and ``AutoContrast`` and ``Equalize`` drop all channels but three. Floating-point images
with values from 0 to 255 work, as loaders with ``to_float32=True`` return them.
"""

from collections.abc import Callable

import numpy as np
from mmcv.transforms import BaseTransform

from mmmaskdistill.errors import ConfigError

from .wrapping import wrap

# The names of the transforms, and whether they need three channels as well as 8 bits
MMSEG = dict(AdjustGamma=False, CLAHE=False, PhotoMetricDistortion=True, RGB2Gray=True)
MMPRETRAIN = dict(
    AutoContrast=True,
    Brightness=False,
    ColorJitter=True,
    ColorTransform=True,
    Contrast=True,
    Equalize=True,
    Invert=False,
    Lighting=True,
    Posterize=False,
    Sharpness=False,
    Solarize=False,
    SolarizeAdd=False,
)
# Interpolation may lead a little out of the range from 0 to 255.
LOWEST, HIGHEST = -128, 383


def apply() -> None:
    """Let the transforms refuse images of other channels or of more than 8 bits."""
    # These imports need the other remedies.
    from mmpretrain.datasets import transforms as mmpretrain_transforms
    from mmseg.datasets import transforms as mmseg_transforms

    toolkits = (mmseg_transforms, MMSEG), (mmpretrain_transforms, MMPRETRAIN)
    for transforms, names in toolkits:
        for name, needs_rgb in names.items():
            if hasattr(transforms, name):  # Forks may have fewer.
                _refuse(getattr(transforms, name), needs_rgb)


def _refuse(transform: type[BaseTransform], needs_rgb: bool):
    @wrap(transform, 'transform')
    def checked(original: Callable, self: BaseTransform, results: dict) -> dict:
        image = results.get('img')
        if isinstance(image, np.ndarray) and image.size:
            _check(image, needs_rgb, type(self).__name__, results.get('img_path'))
        return original(self, results)


def _check(image: np.ndarray, needs_rgb: bool, name: str, path: str | None):
    channels = image.shape[2] if image.ndim == 3 else 1
    deep = image.dtype != np.uint8 and (
        image.dtype.kind != 'f' or image.min() < LOWEST or image.max() > HIGHEST
    )
    if deep or (needs_rgb and channels != 3):
        values = f' from {image.min():g} to {image.max():g}' if deep else ''
        raise ConfigError(
            f'{name} is for {"RGB " if needs_rgb else ""}images of 8 bits, but '
            f"'{path}' has {channels} channels of {image.dtype}{values}: leave {name} "
            "out of the pipeline; brightness and contrast of mmmaskdistill's "
            'RandomJitteredCrop suit any image'
        )
