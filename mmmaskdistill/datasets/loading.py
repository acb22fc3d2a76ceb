"""Transforms that load images: one of three channels, and one of any number."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

from .image_files import UnreadableImage, read_image, select_bands


@TRANSFORMS.register_module()
class StrictLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with a single type of error.

    mmcv's transform raises whatever its storage backend or its decoder raises. A
    dataset that replaces damaged files, such as :class:`ImageNet`, has to
    distinguish these errors from mistakes in the pipeline.

    Args:
        **kwargs: Arguments of mmcv's ``LoadImageFromFile``.
    """

    def transform(self, results: dict) -> dict | None:
        """Load an image.

        Args:
            results (dict): Results with ``img_path``.

        Returns:
            dict | None: The results with ``img``, ``img_shape`` and
            ``ori_shape``. None if the file is missing or empty and
            ``ignore_empty`` is True.

        Raises:
            UnreadableImage: If the file is missing or empty and ``ignore_empty``
                is False, or if it contains no image.
        """
        try:
            return super().transform(results)
        except Exception as error:
            reason = str(error) or 'it contains no image that can be decoded'
            raise UnreadableImage(
                f"cannot load the image '{results['img_path']}': {reason}"
            ) from error


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load an image with all its channels and its full depth.

    This takes the place of mmcv's ``LoadImageFromFile`` for images that are not of
    three channels and 8 bits, such as satellite and medical images. Images of 8 bits
    stay uint8; all others become float32, and their values do not change, because
    torch and OpenCV compute little with 16-bit integers.

    The channels have the order of the file, or that of ``bands``. Only if there are
    three, they are loaded in reverse order, as OpenMMLab's loaders do, and ``to_rgb``
    of mmpretrain's data preprocessors or ``bgr_to_rgb`` of mmseg's turns them round
    again. ``mean`` and ``std`` of the data preprocessor therefore always have the
    order of ``bands``, as :func:`.channels.measure_channels` measures them.

    Args:
        channels (int, optional): Number of channels that each file must have.
            Defaults to None, any number.
        bands (Sequence[int], optional): Channels of the file to use, in this order,
            counted from 0. Defaults to None, all of them.
        fill (float, optional): Value that replaces NaN and infinite pixels, which
            satellite images have where nothing was measured. Defaults to None: such
            pixels are an error.
        backend_args (dict, optional): Arguments of mmengine's file backend. Defaults to
            None.

    Raises:
        ConfigError: If ``channels`` or ``bands`` is wrong.
    """

    def __init__(
        self,
        channels: int | None = None,
        bands: Sequence[int] | None = None,
        fill: float | None = None,
        backend_args: dict | None = None,
    ):
        if channels is not None and channels < 1:
            raise ConfigError(f'channels={channels}: expected at least 1')
        if bands is not None and (not len(bands) or min(bands) < 0):
            raise ConfigError(
                f'bands={list(bands)}: expected numbers of channels, counted from 0'
            )
        self.channels, self.fill = channels, fill
        self.bands = None if bands is None else list(bands)
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load an image.

        Args:
            results (dict): Results with ``img_path``.

        Returns:
            dict: The results with ``img``, [h, w, C] uint8 or float32, ``img_shape``
            and ``ori_shape``.

        Raises:
            UnreadableImage: If the file is missing, empty, damaged or no image.
            ConfigError: If the file has another number of channels, or pixels that are
                not finite.
        """
        path = results['img_path']
        image = self.convert(read_image(path, self.backend_args), path)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def convert(self, image: np.ndarray, name: str) -> np.ndarray:
        """Turn what a file holds into what the pipeline works on.

        Args:
            image (ndarray): [h, w, C] of any type, in the file's order of the channels,
                such as red, green, blue.
            name (str): The image's name, for messages.

        Returns:
            ndarray: [h, w, C] uint8 or float32, the channels of ``bands``; three of
            them in reverse order.

        Raises:
            ConfigError: See :meth:`transform`.
        """
        if self.channels is not None and image.shape[2] != self.channels:
            raise ConfigError(
                f"the image '{name}' has {image.shape[2]} channels: expected "
                f'channels={self.channels}, as set in LoadImage'
            )
        image = select_bands(image, self.bands, name)
        if image.dtype != np.uint8:
            image = self._filled(image.astype(np.float32), name)
        if image.shape[2] == 3:
            image = image[..., ::-1]
        return np.ascontiguousarray(image)

    def _filled(self, image: np.ndarray, path: str) -> np.ndarray:
        finite = np.isfinite(image)
        if finite.all():
            return image
        if self.fill is None:
            raise ConfigError(
                f"the image '{path}' has {finite.size - finite.sum()} values that are "
                'NaN or infinite: set fill of LoadImage to the number to use instead, '
                'such as the mean of the channels'
            )
        return np.where(finite, image, np.float32(self.fill))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(channels={self.channels}, bands={self.bands}, '
            f'fill={self.fill})'
        )
