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


BLOCK = dict(
    type='mmmaskdistill.BlockMaskGenerator',
    input_size=4,
    num_masking_patches=6,
    min_num_patches=2,
)
SQUARES = dict(
    type='mmmaskdistill.UniformMaskGenerator',
    input_size=4,
    num_masking_patches=dict(start=8, end=0, until=0.9),
    unit=2,
)
NO_MASK = dict(type='mmmaskdistill.NoMaskGenerator', input_size=4)
FALLING = dict(predict='all', visible_weight=dict(start=1, end=0, until=0.6))


def all_tokens(**parts):
    backbone = dict(tiny.STUDENT, type='mmmaskdistill.AllTokensViT')
    return tiny.build(backbone=backbone, **parts)


@pytest.mark.parametrize(
    'step, parts, words',
    [
        (NO_MASK, {}, "hides no patch .* model.predict='hidden': set model.predict"),
        (dict(BLOCK, unmasked_batches=0.1), {}, 'hides no patch in some batches'),
        (SQUARES, {}, 'hides no patch in some batches'),
        (NO_MASK, dict(predict='all', visible_weight=0), 'have the weight 0'),
        (dict(BLOCK, unmasked_batches=0.1), FALLING, '(60 % into the run)'),
        (SQUARES, FALLING, '(61.88 % into the run)'),
        (
            dict(BLOCK, num_masking_patches=dict(start=0, end=6)),
            dict(predict='all', visible_weight=dict(start=0, end=1)),
            '(0 % into the run)',
        ),
        (
            dict(BLOCK, num_masking_patches=16),
            dict(predict='visible'),
            'hides every patch .* let every batch show some patches',
        ),
    ],
)
def test_some_patch_counts_in_every_batch(step, parts, words):
    message = error_message(check_masks, pretraining(step), all_tokens(**parts))
    assert all(part in message for part in words.split(' .* ')), message


def test_masks_are_fit_for_what_counts():
    falling = dict(FALLING, visible_weight=dict(start=1, end=0))
    for step, parts in (
        (NO_MASK, dict(predict='all')),
        (NO_MASK, dict(predict='visible')),
        (dict(BLOCK, unmasked_batches=0.5), dict(predict='all')),
        # The weight is 0 only at the end, after the last batch.
        (dict(BLOCK, unmasked_batches=0.5), falling),
        (dict(BLOCK, num_masking_patches=dict(start=0, end=6)), FALLING),
        (SQUARES, dict(predict='visible')),
    ):
        check_masks(pretraining(step), all_tokens(**parts))
    # The class token counts even if no patch does.
    model = tiny.build(
        backbone=dict(
            tiny.STUDENT, type='mmmaskdistill.AllTokensViT', class_token=True
        ),
        teacher=dict(tiny.TEACHER, class_token=True),
    )
    check_masks(pretraining(NO_MASK), model)
