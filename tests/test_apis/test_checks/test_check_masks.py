import numpy as np
import pytest
from helpers import tiny
from mmcv.transforms import BaseTransform
from torch import nn

from mmmaskdistill.apis.checks import check_masks
from mmmaskdistill.errors import ConfigError


def error_message(check, *args):
    """Return the one-line message of the ConfigError that a check raises."""
    with pytest.raises(ConfigError) as error:
        check(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


def pretraining(*steps):
    return dict(train_dataloader=dict(dataset=dict(pipeline=steps)))


class FlatMaskGenerator(BaseTransform):
    def transform(self, results):
        return dict(results, mask=np.zeros(8))


class ImageMaskGenerator(BaseTransform):
    def transform(self, results):
        return dict(results, mask=np.zeros(results['img'].shape))


def test_masks_must_have_the_students_patch_grid():
    parts = dict(
        tiny.PIXEL_PARTS,
        backbone=dict(tiny.STUDENT, img_size=(32, 64)),
        teacher=dict(tiny.PIXELS, img_size=(32, 64)),
    )
    model = tiny.build(**parts)
    block = dict(
        type='mmmaskdistill.BlockMaskGenerator',
        num_masking_patches=3,
        min_num_patches=1,
    )
    load = dict(type='LoadImageFromFile')
    for step in (
        dict(block, input_size=(2, 4)),
        dict(type='mmmaskdistill.GumbelNoise', input_size=(2, 4)),
        dict(type='MyMasks'),
        dict(type=FlatMaskGenerator),
        dict(type=ImageMaskGenerator),
    ):
        check_masks(pretraining(load, step), model)
    check_masks(dict(train_dataloader=dict(dataset=dict(type='Mine'))), model)
    # The number of patches is right, but the grid is not.
    bad = pretraining(load, dict(block, input_size=(4, 2)))
    for wrapped in (model, nn.parallel.DataParallel(model)):
        assert (
            'BlockMaskGenerator of the training pipeline draws masks of '
            '4 x 2 patches, the student MaskDistillViT has 2 x 4'
        ) in error_message(check_masks, bad, wrapped)
    # Models other than MaskDistill are not checked.
    check_masks(dict(), nn.Identity())
