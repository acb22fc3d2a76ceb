"""The toolkits' image loader with a faster JPEG decoder."""
from typing import Optional

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


class UnreadableImage(OSError):
    """A file that is missing, empty or holds no image."""


@TRANSFORMS.register_module()
class FastLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, faster for JPEG.

    Plain colour JPEGs go to libjpeg-turbo through ``simplejpeg``, by the
    exact (``ISLOW``) transform and interpolated colour, as OpenCV decodes
    them: the pixels are the same. Everything else goes the toolkit's way:
    other formats, grey, CMYK, 12 bits, files whose header may hold Exif,
    which turns images, damaged ones, and all where ``simplejpeg`` is missing
    or arguments ask for something else than colour through OpenCV.

    Args:
        **kwargs: As for mmcv's ``LoadImageFromFile``, without its deprecated
            ``file_client_args``.

    Raises:
        ConfigError: If ``file_client_args`` is given.
        UnreadableImage: If the file is missing or holds no image, unless
            ``ignore_empty``.
    """

    def __init__(self, **kwargs):
        if kwargs.get('file_client_args') is not None:
            raise ConfigError(
                f'file_client_args={kwargs["file_client_args"]} is '
                'deprecated: give backend_args')
        super().__init__(**kwargs)

    def transform(self, results: dict) -> Optional[dict]:
        path = results['img_path']
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            image = self._decode(content)
        except Exception as error:
            if self.ignore_empty:
                return None
            raise UnreadableImage(f"cannot load the image '{path}': "
                                  f'{error}') from error
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, content: bytes) -> np.ndarray:
        if (simplejpeg and self.color_type == 'color'
                and self.imdecode_backend == 'cv2'
                and content[:2] == b'\xff\xd8' and not _may_turn(content)):
            image = _decode_jpeg(content)
            if image is not None:
                return image
        image = mmcv.imfrombytes(
            content, flag=self.color_type, backend=self.imdecode_backend)
        if image is None:
            raise ValueError('no image format that OpenCV reads')
        return image


def _may_turn(content: bytes) -> bool:
    """Whether a JPEG's header may hold Exif, or is not as usual."""
    place = 2
    while content[place:place + 1] == b'\xff':
        kind = content[place + 1:place + 2]
        if kind == b'\xda':  # start of scan: what follows is pixels
            return False
        if kind in (b'\xe1', b'\xff'):  # APP1, padding
            return True
        place += 2 + int.from_bytes(content[place + 2:place + 4], 'big')
    return True


def _decode_jpeg(content: bytes) -> Optional[np.ndarray]:
    """Pixels [h, w, 3] BGR, uint8; None if not a plain colour JPEG."""
    try:
        if simplejpeg.decode_jpeg_header(content)[2] != 'YCbCr':
            return None
        return simplejpeg.decode_jpeg(content, colorspace='BGR')
    except ValueError:
        return None
