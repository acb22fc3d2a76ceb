import numpy as np
import skimage.data
from mmengine.registry import init_default_scope
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from mmmaskdistill.registry import TRANSFORMS


def test_both_pictures_are_the_reference_s_resized_crop():
    """torchvision on PIL images, as BEiT v2's code crops."""
    init_default_scope('mmpretrain')
    photograph = skimage.data.astronaut()
    crop = TRANSFORMS.build(
        dict(
            type='mmmaskdistill.RandomResizedCropTwoSizes',
            scale=224,
            second_scale=196,
            crop_ratio_range=(0.2, 1.),
            backend='pillow',
            interpolation='bicubic'))
    boxes = set()
    for seed in range(5):
        np.random.seed(seed)
        box = crop.rand_crop_params(photograph)
        boxes.add(box)
        np.random.seed(seed)
        result = crop(dict(img=photograph))
        assert result['img_shape'] == (224, 224, 3)
        for picture, size in zip(result['img'], (224, 196)):
            expected = resized_crop(
                Image.fromarray(photograph), *box, [size, size],
                InterpolationMode.BICUBIC)
            np.testing.assert_array_equal(picture, expected)
    assert len(boxes) == 5
    assert repr(crop).endswith('backend=pillow, second_scale=(196, 196))')
