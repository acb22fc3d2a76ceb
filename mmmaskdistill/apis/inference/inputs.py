"""The images that a model is given: files, PIL images and arrays."""

import os
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image, ImageOps

from mmmaskdistill.datasets.image_files import UnreadableImage, read_image
from mmmaskdistill.datasets.loading import LoadImage
from mmmaskdistill.errors import ConfigError

KINDS = 'the path of a file, a PIL image, or an array [H, W, 3] (RGB) or [H, W]'


class ImageLoader:
    """Load an image as a config's pipeline does, from a file or from memory.

    Args:
        step (Callable): The step of the pipeline that loads images.
    """

    def __init__(self, step: Callable):
        self.step = step

    def __call__(self, image: Any) -> dict:
        """Load an image.

        Args:
            image (Any): A path, a PIL image or an array, see :func:`as_array`.

        Returns:
            dict: ``img``, as the pipeline's own step would have loaded it,
            ``img_shape``, ``ori_shape`` and, for a file, ``img_path``.

        Raises:
            UnreadableImage: If the file is missing, empty, damaged or no image.
            ConfigError: If the image has another number of channels or another depth
                than the pipeline needs.
            TypeError: If it is no image.
        """
        # What mmseg's datasets give to their pipelines in addition.
        results = dict(img_path=None, seg_fields=[], reduce_zero_label=False)
        if isinstance(image, (str, os.PathLike)):
            return self._from_file(os.fspath(image), results)
        array = as_array(image)
        if isinstance(self.step, LoadImage):
            array = array if array.ndim == 3 else array[..., None]
            loaded = self.step.convert(array, 'an image in memory')
        elif isinstance(self.step, LoadImageFromFile):
            loaded = _as_opencv_loads(array, self.step)
        else:
            raise ConfigError(
                f"the config's pipeline loads images with {type(self.step).__name__}, "
                'which reads only files: give the paths of files'
            )
        results.update(img=loaded, img_shape=loaded.shape[:2])
        results['ori_shape'] = results['img_shape']
        return results

    def picture(self, image: Any) -> np.ndarray:
        """Turn an image into a picture that can be shown, see :func:`as_picture`.

        Args:
            image (Any): A path, a PIL image or an array.

        Returns:
            ndarray: [H, W, 3] uint8 RGB. A file that mmcv loads is shown as mmcv loads
            it, which may ignore the EXIF orientation.
        """
        is_file = isinstance(image, (str, os.PathLike))
        if not (is_file and isinstance(self.step, LoadImageFromFile)):
            return as_picture(image)
        loaded = self._from_file(os.fspath(image), {})['img']
        if self.step.to_float32:
            loaded = loaded.clip(0, 255).astype(np.uint8)
        if loaded.ndim == 3 and loaded.shape[2] >= 3:
            loaded = loaded[..., 2::-1]  # BGR
        return as_picture(loaded)

    def _from_file(self, path: str, results: dict) -> dict:
        results['img_path'] = path
        try:
            loaded = self.step(results)
        except ConfigError:
            raise
        except Exception as error:
            raise UnreadableImage(_unreadable(path, str(error))) from error
        if loaded is None or loaded.get('img') is None:
            raise UnreadableImage(_unreadable(path, ''))
        return loaded


def _unreadable(path: str, reason: str) -> str:
    if not os.path.exists(path) and '://' not in path:
        reason = 'No such file'
    elif os.path.isfile(path) and not os.path.getsize(path):
        reason = 'the file is empty'
    elif not reason or reason.startswith('failed to load image'):
        reason = 'it contains no image that can be decoded'
    return f"cannot load the image '{path}': {reason}"


def as_array(image: Any) -> np.ndarray:
    """Turn a PIL image or an array into an array.

    Args:
        image (Any): A PIL image, which is rotated as its EXIF orientation asks for, or
            an array [H, W] or [H, W, C], of which three channels are red, green and
            blue, and four of 8 bits are these and alpha.

    Returns:
        ndarray: [H, W] or [H, W, C].

    Raises:
        TypeError: If it is neither.
        ConfigError: If the array has no pixels or other dimensions.
    """
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        if image.mode == '1':
            image = image.convert('L')
        elif image.mode not in ('L', 'RGB', 'RGBA', 'LA', 'I', 'F', 'I;16'):
            image = image.convert('LA' if image.mode == 'La' else 'RGB')
        return np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f'an image is a {type(image).__name__}: expected {KINDS}')
    if image.ndim not in (2, 3) or not image.size:
        raise ConfigError(
            f'an image is an array of shape {list(image.shape)}: expected {KINDS}'
        )
    return image


def _as_opencv_loads(array: np.ndarray, step: LoadImageFromFile) -> np.ndarray:
    """Turn an array into what mmcv's loader returns for such a file.

    Args:
        array (ndarray): [H, W] or [H, W, C].
        step (LoadImageFromFile): The loader.

    Returns:
        ndarray: [H, W, 3] BGR for ``color_type='color'``; [H, W] for ``'grayscale'``.
    """
    channels = 1 if array.ndim == 2 else array.shape[2]
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8 or channels not in (1, 2, 3, 4):
        raise ConfigError(
            f'an image has {channels} channels of type {array.dtype}, but the config '
            'loads images with LoadImageFromFile, which has 3 of type uint8: give 0 to '
            '255 as uint8, or train with mmmaskdistill.LoadImage'
        )
    if channels < 3:
        gray = array if array.ndim == 2 else array[..., 0]
        array = np.repeat(gray[..., None], 3, 2)
    flag = step.color_type.split('_')[0]
    if flag == 'grayscale':
        array = cv2.cvtColor(np.ascontiguousarray(array[..., :3]), cv2.COLOR_RGB2GRAY)
    elif flag == 'unchanged' and channels == 4:
        array = array[..., [2, 1, 0, 3]]
    else:
        array = array[..., 2::-1]
    return np.ascontiguousarray(array, np.float32 if step.to_float32 else None)


def as_picture(image: Any) -> np.ndarray:
    """Turn an image into a picture that can be shown.

    Args:
        image (Any): A path, a PIL image or an array.

    Returns:
        ndarray: [H, W, 3] uint8 RGB. One or two channels are shown in gray, the first
        three of more than three. Values that are not uint8 are stretched so that 2 % of
        the pixels become black and 2 % white in each channel.

    Raises:
        UnreadableImage: If the file cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        image = read_image(os.fspath(image))
    array = as_array(image)
    array = array[..., None] if array.ndim == 2 else array
    array = array[..., :1] if array.shape[2] < 3 else array[..., :3]
    if array.dtype != np.uint8:
        array = _stretch(array.astype(np.float32))
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _stretch(array: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(array), array, np.nan)
    if np.isnan(finite).all():
        return np.zeros(array.shape, np.uint8)
    low, high = np.nanpercentile(finite, (2, 98), axis=(0, 1))
    spread = np.where(high > low, high - low, 1)
    scaled = np.nan_to_num((finite - low) / spread)
    return np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)
