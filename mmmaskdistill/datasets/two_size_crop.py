"""One crop for a student and a teacher whose patches differ in size."""
from typing import Tuple, Union

import mmcv
from mmpretrain.datasets import RandomResizedCrop

from mmmaskdistill.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomResizedCropTwoSizes(RandomResizedCrop):
    """A random crop, resized for the student and once more for the teacher.

    mmpretrain's ``RandomResizedCrop``, with a list of two pictures as its
    result: both come from the original pixels, antialiased with
    ``backend='pillow'`` as in BEiT v2's public code. mmpretrain's
    ``RandomResizedCropAndInterpolationWithTwoPic`` resizes without
    antialiasing, which changes the pixels of a photograph by 1 to 4 of 255 in
    the mean.

    Sets ``img`` to two pictures, [h, w, 3] each; ``img_shape`` is the first
    one's.

    Args:
        scale (int | tuple[int, int]): The student's size (h, w), in pixels.
        second_scale (int | tuple[int, int]): The teacher's.
        **kwargs: Of ``RandomResizedCrop``: ``crop_ratio_range``,
            ``interpolation``, ``backend`` and others.
    """

    def __init__(self, scale: Union[int, Tuple[int, int]],
                 second_scale: Union[int, Tuple[int, int]], **kwargs):
        super().__init__(scale, **kwargs)
        if isinstance(second_scale, int):
            second_scale = (second_scale, second_scale)
        self.second_scale = second_scale

    def transform(self, results: dict) -> dict:
        top, left, height, width = self.rand_crop_params(results['img'])
        crop = results['img'][top:top + height, left:left + width]
        results['img'] = [
            mmcv.imresize(
                crop,
                tuple(size[::-1]),
                interpolation=self.interpolation,
                backend=self.backend)
            for size in (self.scale, self.second_scale)
        ]
        results['img_shape'] = results['img'][0].shape
        return results

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, second_scale={self.second_scale})'
