"""Color transforms refuse images that they would damage, and take all others."""

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, init_default_scope

from mmmaskdistill.compat.color_transforms import MMPRETRAIN, MMSEG
from mmmaskdistill.errors import ConfigError

OPTIONS = dict(
    Brightness=dict(magnitude=0.5),
    ColorJitter=dict(brightness=0.5, contrast=0.5, saturation=0.5),
    ColorTransform=dict(magnitude=0.5),
    Contrast=dict(magnitude=0.5),
    Equalize=dict(prob=1.0),
    AutoContrast=dict(prob=1.0),
    Invert=dict(prob=1.0),
    Lighting=dict(
        eigval=[55.4625, 4.794, 1.1475],
        eigvec=[[-0.5, 0.4, 0.7], [-0.5, -0.8, 0.4], [-0.6, 0.4, -0.6]],
    ),
    Posterize=dict(bits=4),
    Sharpness=dict(magnitude=0.5),
    Solarize=dict(thr=100),
    SolarizeAdd=dict(magnitude=50),
)
ALL = [('mmseg', *item) for item in MMSEG.items()]
ALL += [('mmpretrain', *item) for item in MMPRETRAIN.items()]


def run(scope, name, image):
    init_default_scope(scope)
    transform = TRANSFORMS.build(dict(type=f'{scope}.{name}', **OPTIONS.get(name, {})))
    return transform(dict(img=image, img_path='a.tif'))


@pytest.mark.parametrize(('scope', 'name', 'needs_rgb'), ALL)
def test_colors_of_8_bits_are_changed_and_others_refused(scope, name, needs_rgb):
    rgb = np.random.default_rng(0).integers(0, 256, (12, 14, 3), np.uint8)
    assert run(scope, name, rgb.copy())['img'].shape[:2] == (12, 14)
    deep = np.full((12, 14, 3), 3000, np.float32)
    with pytest.raises(ConfigError) as error:
        run(scope, name, deep)
    assert str(error.value) == (
        f'{name} is for {"RGB " * needs_rgb}images of 8 bits, but '
        "'a.tif' has 3 channels of float32 from 3000 to 3000: leave "
        f"{name} out of the pipeline; brightness and contrast of mmmaskdistill's "
        'RandomJitteredCrop suit any image'
    )
    four = np.zeros((12, 14, 4), np.uint8)
    if needs_rgb:
        with pytest.raises(
            ConfigError, match=f"{name} is for RGB .*'a.tif' has 4 chan"
        ):
            run(scope, name, four)
    else:
        assert run(scope, name, four)['img'].shape == (12, 14, 4)


def test_floating_point_from_0_to_255_is_changed():
    image = np.random.default_rng(0).random((12, 14, 3), np.float32) * 255
    assert run('mmseg', 'PhotoMetricDistortion', image)['img'].shape == (12, 14, 3)
