"""Color jitter, flip and random crop in one transform, which computes only the crop."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms.utils import cache_randomness
from mmpretrain.datasets import RandomResizedCrop

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

# Mean gray value, the mean of each channel, or nothing
Mean = int | np.ndarray | None
LEVELS = np.arange(256, dtype=np.float32)
# Weights of blue, green and red in the gray value of a pixel, for each channel.
GREY = np.tile([0.114, 0.587, 0.299], (3, 1))


@TRANSFORMS.register_module()
class RandomJitteredCrop(RandomResizedCrop):
    """Color jitter, horizontal flip and random resized crop in one transform.

    The random draws are those of torchvision's ``ColorJitter``,
    ``RandomHorizontalFlip`` and ``RandomResizedCrop``, applied one after the
    other, and the pictures are the same up to rounding. torchvision jitters the
    whole image, most of which is then cropped away. Brightness, contrast and
    saturation change each pixel independently of the others, so here they are
    applied to the resized crop. Contrast also needs the mean gray value of the
    whole image, which is taken from every fourth row and column.

    Images may have any number C of channels and any type. Other types than uint8 become
    float32 and are not cut off at 255. For images other than RGB of 8 bits, contrast
    changes the difference of each channel from its own mean, and saturation is refused
    unless its strength is 0, because there is no gray.

    The transform sets ``img`` to a picture [h, w, C] uint8 or float32. With
    ``second_scale``, for a teacher with another patch size, it sets ``img`` to a
    list of two pictures of the same crop. ``img_shape`` is the shape of the first
    picture.

    Args:
        scale (int | tuple[int, int]): Height and width of the picture, in
            pixels.
        second_scale (int | tuple[int, int], optional): Height and width of the
            second picture, in pixels. Defaults to None, one picture only.
        brightness (float): Strength of the change of brightness, 0 to 1: its
            factor is drawn uniformly from 1 - strength to 1 + strength. Defaults
            to 0.4.
        contrast (float): The same for contrast. Defaults to 0.4.
        saturation (float): The same for saturation. Defaults to 0.4.
        flip_prob (float): Probability of a horizontal flip. Defaults to 0.5.
        crop_ratio_range (tuple[float, float]): Range of the area of the crop, as
            a share of the image's area. Defaults to (0.2, 1).
        aspect_ratio_range (tuple[float, float]): Range of the ratio of the
            crop's width to its height. Defaults to (3/4, 4/3).
        interpolation (str): How the crop is resized, ``'bicubic'`` or
            ``'bilinear'``, both antialiased. Defaults to ``'bicubic'``.

    Raises:
        ConfigError: If a strength is not within 0 to 1, or the interpolation is
            neither of the two; or, for an image, if saturation cannot be changed.
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
        interpolation: str = 'bicubic',
    ):
        super().__init__(
            scale,
            crop_ratio_range=crop_ratio_range,
            aspect_ratio_range=aspect_ratio_range,
            interpolation=interpolation,
        )
        if interpolation not in ('bicubic', 'bilinear'):
            raise ConfigError(
                f'interpolation={interpolation!r}: expected bicubic or bilinear'
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
        """Draw the order of the jitters and the factor of each.

        Returns:
            list[tuple[Callable, float]]: Jitters in the order in which they are
            applied, each with its factor. A jitter of strength 0 is left out.
        """
        return [
            (jitter, np.random.uniform(1 - strength, 1 + strength))
            for jitter, strength in (self.jitters[i] for i in np.random.permutation(3))
            if strength
        ]

    @cache_randomness
    def draw_flip(self) -> bool:
        """Draw whether the picture is flipped."""
        return np.random.rand() < self.flip_prob

    def transform(self, results: dict) -> dict:
        """Crop, resize, jitter and flip an image.

        Args:
            results (dict): Results with ``img``, [h, w, C]. If it has three channels of
                uint8, they are in BGR order.

        Returns:
            dict: The results with new ``img`` and ``img_shape``, and with
            ``flip`` and ``flip_direction``.

        Raises:
            ConfigError: If the strength of saturation is not 0 and the image is not
                RGB of 8 bits.
        """
        image = self._checked(results)
        top, left, height, width = self.rand_crop_params(image)
        crop = image[top : top + height, left : left + width]
        pictures = [resize(crop, scale, self.interpolation) for scale in self.scales]
        jitters = self.draw_jitter()
        mean = _mean_before_contrast(image, jitters)
        pictures = [_jitter(picture, jitters, mean) for picture in pictures]
        flip = self.draw_flip()
        if flip:
            # OpenCV leaves out the last axis of images with one channel.
            pictures = [cv2.flip(p, 1).reshape(p.shape) for p in pictures]
        results.update(
            img=pictures if len(pictures) > 1 else pictures[0],
            img_shape=pictures[0].shape,
            flip=flip,
            flip_direction='horizontal' if flip else None,
        )
        return results

    def _checked(self, results: dict) -> np.ndarray:
        """Return the image as [h, w, C] uint8 or float32."""
        image = results['img']
        if image.ndim == 2:
            image = image[..., None]
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
        saturation = dict(self.jitters)[_saturation]
        if saturation and not _is_rgb(image):
            raise ConfigError(
                f'saturation={saturation} of {type(self).__name__} is for RGB images '
                f"of 8 bits, but '{results.get('img_path')}' has {image.shape[2]} "
                f'channels of {results["img"].dtype}: set saturation=0'
            )
        return image

    def __repr__(self) -> str:
        strengths = ', '.join(
            f'{jitter.__name__[1:]}={strength}' for jitter, strength in self.jitters
        )
        return (
            f'{type(self).__name__}(scales={self.scales}, '
            f'crop_ratio_range={self.crop_ratio_range}, {strengths}, '
            f'flip_prob={self.flip_prob}, interpolation={self.interpolation})'
        )


def resize(
    image: np.ndarray, scale: tuple[int, int], interpolation: str = 'bicubic'
) -> np.ndarray:
    """Resize an image with antialiasing, as Pillow does.

    torch's kernel is faster than Pillow's.

    Args:
        image (ndarray): [h, w, C] uint8 or float32.
        scale (tuple[int, int]): New height and width, in pixels.
        interpolation (str): ``'bicubic'`` or ``'bilinear'``. Defaults to
            ``'bicubic'``.

    Returns:
        ndarray: [*scale, C] of the same type.
    """
    # torch recognizes the channels-last layout, and avoids a copy of the image,
    # only if the stride of the batch dimension is that of a whole image.
    # Therefore this dimension is added before the permutation.
    tensor = torch.from_numpy(image).unsqueeze(0).permute(0, 3, 1, 2)
    tensor = F.interpolate(tensor, scale, mode=interpolation, antialias=True)
    return tensor[0].permute(1, 2, 0).contiguous().numpy()


def _is_rgb(image: np.ndarray) -> bool:
    """Tell whether an image has three channels of 8 bits."""
    return image.dtype == np.uint8 and image.shape[2] == 3


def _jitter(
    image: np.ndarray,
    jitters: list[tuple[Callable, float]],
    mean: Mean = None,
) -> np.ndarray:
    """Apply jitters one after the other.

    Args:
        image (ndarray): [h, w, C] uint8 or float32, in BGR order if it is RGB.
        jitters (list[tuple[Callable, float]]): Jitters, each with its factor.
        mean (int | ndarray, optional): Mean gray value, or the mean of each channel,
            which contrast needs.

    Returns:
        ndarray: [h, w, C] of the same type.
    """
    if image.dtype != np.uint8:
        for jitter, factor in jitters:
            image = jitter(image, factor, mean)
        return image
    # Each channel may need a table of its own, because its mean may be its own.
    table = LEVELS
    for jitter, factor in jitters:
        if jitter is _saturation:
            if table is not LEVELS:
                image, table = cv2.LUT(image, table), LEVELS
            image = _saturation(image, factor)
        else:
            # Brightness and contrast are lookup tables. Successive tables are
            # combined into one, which is applied to the image once.
            table = _rounded(jitter(table, factor, mean))
    if table is LEVELS:
        return image
    return cv2.LUT(image, table[None]).reshape(image.shape)


def _brightness(levels: np.ndarray, factor: float, mean: Mean) -> np.ndarray:
    return levels * np.float32(factor)


def _contrast(levels: np.ndarray, factor: float, mean: Mean) -> np.ndarray:
    if np.ndim(mean) and levels.ndim == 1:
        levels = levels[:, None]
    return levels * np.float32(factor) + mean * (1 - factor)


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * GREY)


def _rounded(levels: np.ndarray) -> np.ndarray:
    # Pillow rounds towards zero.
    return levels.clip(0, 255).astype(np.uint8)


def _mean_before_contrast(
    image: np.ndarray, jitters: list[tuple[Callable, float]]
) -> Mean:
    """Compute the mean of the whole image just before contrast.

    Returns:
        int | ndarray | None: The mean gray value of an RGB image of 8 bits; the mean of
        each channel, [C] float32, of others; None if contrast does not change.
    """
    kinds = [jitter for jitter, _ in jitters]
    if _contrast not in kinds:
        return None
    height, width, channels = image.shape
    sample = cv2.resize(
        image, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_NEAREST
    )
    sample = _jitter(
        sample.reshape(*sample.shape[:2], channels), jitters[: kinds.index(_contrast)]
    )
    if _is_rgb(image):
        return int(cv2.mean(cv2.cvtColor(sample, cv2.COLOR_BGR2GRAY))[0] + 0.5)
    return sample.mean((0, 1), dtype=np.float32)
