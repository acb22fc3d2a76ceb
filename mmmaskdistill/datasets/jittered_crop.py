"""Colour jitter, flip and random crop, computed on the crop alone."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms.utils import cache_randomness
from mmpretrain.datasets import RandomResizedCrop

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

LEVELS = np.arange(256, dtype=np.float32)
GREY = np.tile([0.114, 0.587, 0.299], (3, 1))  # of blue, green and red


@TRANSFORMS.register_module()
class RandomJitteredCrop(RandomResizedCrop):
    """Colour jitter, horizontal flip and random resized crop, in one.

    Draws what torchvision's ``ColorJitter``, ``RandomHorizontalFlip`` and
    ``RandomResizedCrop`` draw in a row, and gives the same pictures but for
    rounding. The reference jitters the whole image and throws most of it
    away; brightness, contrast and saturation act on each pixel alone, so here
    they act on the resized crop. What contrast needs of the whole image, its
    mean grey, comes from every fourth pixel.

    Sets ``img`` to a picture [h, w, 3] uint8, or to two of the same crop with
    ``second_scale``, for a teacher whose patches are of another size;
    ``img_shape`` is the first one's.

    Args:
        scale (int | tuple[int, int]): Size (h, w) of the picture, in pixels.
        second_scale (int | tuple[int, int], optional): Size of a second one.
        brightness (float): Factors are uniform in 1 - this to 1 + this.
            Defaults to 0.4.
        contrast (float): Likewise. Defaults to 0.4.
        saturation (float): Likewise. Defaults to 0.4.
        flip_prob (float): Probability of a horizontal flip. Defaults to 0.5.
        crop_ratio_range (tuple[float, float]): Area of the crop, as a part of
            the image. Defaults to (0.2, 1).
        aspect_ratio_range (tuple[float, float]): Width by height of the crop.
            Defaults to (3/4, 4/3).

    Raises:
        ConfigError: If a strength is not from 0 to 1.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        second_scale: int | tuple[int, int] | None = None,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        flip_prob: float = 0.5,
        crop_ratio_range: tuple[float, float] = (0.2, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
    ):
        super().__init__(
            scale,
            crop_ratio_range=crop_ratio_range,
            aspect_ratio_range=aspect_ratio_range,
        )
        self.scales = [self.scale]
        if second_scale is not None:
            if isinstance(second_scale, int):
                second_scale = (second_scale, second_scale)
            self.scales.append(second_scale)
        self.jitters = (
            (_brightness, brightness),
            (_contrast, contrast),
            (_saturation, saturation),
        )
        for jitter, strength in self.jitters:
            if not 0 <= strength <= 1:
                raise ConfigError(f'{jitter.__name__[1:]}={strength}: expected 0 to 1')
        self.flip_prob = flip_prob

    @cache_randomness
    def draw_jitter(self) -> list[tuple[Callable, float]]:
        """Jitters in random order, each with its factor."""
        return [
            (jitter, np.random.uniform(1 - strength, 1 + strength))
            for jitter, strength in (self.jitters[i] for i in np.random.permutation(3))
            if strength
        ]

    @cache_randomness
    def draw_flip(self) -> bool:
        return np.random.rand() < self.flip_prob

    def transform(self, results: dict) -> dict:
        image = results['img']
        top, left, height, width = self.rand_crop_params(image)
        crop = image[top : top + height, left : left + width]
        pictures = [resize(crop, scale) for scale in self.scales]
        jitters = self.draw_jitter()
        mean = _grey_before_contrast(image, jitters)
        pictures = [_jitter(picture, jitters, mean) for picture in pictures]
        flip = self.draw_flip()
        if flip:
            pictures = [cv2.flip(picture, 1) for picture in pictures]
        results.update(
            img=pictures if len(pictures) > 1 else pictures[0],
            img_shape=pictures[0].shape,
            flip=flip,
            flip_direction='horizontal' if flip else None,
        )
        return results

    def __repr__(self) -> str:
        strengths = ', '.join(
            f'{jitter.__name__[1:]}={strength}' for jitter, strength in self.jitters
        )
        return (
            f'{type(self).__name__}(scales={self.scales}, '
            f'crop_ratio_range={self.crop_ratio_range}, {strengths}, '
            f'flip_prob={self.flip_prob})'
        )


def resize(image: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resizing, as Pillow's, by torch's faster kernel.

    Args:
        image (ndarray): [h, w, 3] uint8.
        scale (tuple[int, int]): New height and width.

    Returns:
        ndarray: [*scale, 3] uint8.
    """
    # `unsqueeze` first: torch takes the layout for channels-last, and does not
    # copy, only if the batch's stride is that of a whole image.
    tensor = torch.from_numpy(image).unsqueeze(0).permute(0, 3, 1, 2)
    tensor = F.interpolate(tensor, scale, mode='bicubic', antialias=True)
    return tensor[0].permute(1, 2, 0).contiguous().numpy()


def _jitter(
    image: np.ndarray, jitters: list[tuple[Callable, float]], mean: int | None = None
) -> np.ndarray:
    """Apply jitters in turn.

    Args:
        image (ndarray): [h, w, 3] uint8, BGR.
        jitters (list[tuple[Callable, float]]): Each with its factor.
        mean (int, optional): Of grey, for contrast.
    """
    table = LEVELS
    for jitter, factor in jitters:
        if jitter is _saturation:
            if table is not LEVELS:
                image, table = cv2.LUT(image, table), LEVELS
            image = _saturation(image, factor)
        else:
            # Of tables in a row, one remains.
            table = jitter(table, factor, mean)
    return image if table is LEVELS else cv2.LUT(image, table)


def _brightness(levels: np.ndarray, factor: float, mean: int | None) -> np.ndarray:
    return _table(levels * np.float32(factor))


def _contrast(levels: np.ndarray, factor: float, mean: int) -> np.ndarray:
    return _table(levels * np.float32(factor) + mean * (1 - factor))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * GREY)


def _table(levels: np.ndarray) -> np.ndarray:
    # Pillow cuts the fraction off.
    return levels.clip(0, 255).astype(np.uint8)


def _grey_before_contrast(
    image: np.ndarray, jitters: list[tuple[Callable, float]]
) -> int:
    """Mean grey of the whole image when contrast's turn comes."""
    height, width = image.shape[:2]
    sample = cv2.resize(
        image, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_NEAREST
    )
    kinds = [jitter for jitter, _ in jitters]
    if _contrast in kinds:
        jitters = jitters[: kinds.index(_contrast)]
    grey = cv2.cvtColor(_jitter(sample, jitters), cv2.COLOR_BGR2GRAY)
    return int(cv2.mean(grey)[0] + 0.5)
