"""All combinations of student, teacher and predicted patches train or are refused.

Normalizers, heads and losses alternate between the combinations.
"""

from itertools import product

import pytest
import torch
from helpers import tiny
from mmpretrain.structures import DataSample

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill
from mmmaskdistill.models.selfsup.combinations import PREDICT

SWIN = dict(tiny.SWIN, stage_cfgs=dict(block_cfgs=dict(window_size=4)))
# Each student, its width, and the side of its patches in pixels. The patch grid is
# always 4 x 4.
STUDENTS = [
    (dict(type='MaskDistillViT', arch=tiny.ARCH), 24, 16),
    (dict(type='AllTokensViT', arch=tiny.ARCH), 24, 16),
    (dict(type='PatchAggregationViT', arch=tiny.ARCH, early_layers=1), 24, 16),
    (dict(type='VisibleViT', arch=tiny.ARCH), 24, 16),
    (dict(type='MaskedSwin', **SWIN), 96, 32),
    (dict(type='MaskedTimm', model_name='test_vit'), 64, 16),
    (dict(type='MaskedTimm', model_name='test_resnet', fill='mean'), 96, 32),
]
# Each teacher, and its number of channels or size of vocabulary. None stands for the
# student's width.
TEACHERS = [
    (tiny.TEACHER, 64),
    (dict(tiny.TEACHER, layer=(-2, -1)), 64),
    (dict(tiny.TEACHER, model_name='test_resnet', layer=3, resize='bilinear'), 192),
    (tiny.PIXELS, 768),
    (dict(type='HOGTeacher', img_size=64), 108),
    (tiny.TOKENIZER, 40),
    (dict(type='MomentumTeacher', num_layers=2), None),
]
NORMALIZERS = [
    'NoNormalizer',
    'LayerNormalizer',
    'InstanceNormalizer',
    'BatchNormalizer',
    'L2Normalizer',
    'PatchPixelNormalizer',
]
HEADS = [dict(type='LinearHead'), dict(type='MLPHead', hidden_channels=16)]
DECODERS = [
    dict(type=kind, grid=4, embed_dims=16, num_layers=1, num_heads=2)
    for kind in ('DecoderHead', 'PromptDecoderHead')
]
LOSSES = ['SmoothL1Loss', 'L1Loss', 'MSELoss', 'mmpretrain.CosineSimilarityLoss']


def scoped(cfg):
    """Return a config whose type has the scope ``mmmaskdistill`` if it had none."""
    cfg = cfg if isinstance(cfg, dict) else dict(type=cfg)
    kind = cfg['type']
    return dict(cfg, type=kind if '.' in kind else f'mmmaskdistill.{kind}')


def fits(student, teacher, predict):
    """Whether the parts can be combined."""
    only_hidden = ('MaskDistillViT', 'PatchAggregationViT')
    can_be_followed = 'arch' in student and student['type'] != 'MaskedSwin'
    return (predict == 'hidden' or student['type'] not in only_hidden) and (
        can_be_followed or teacher['type'] != 'MomentumTeacher'
    )


@pytest.mark.parametrize('student', STUDENTS, ids=lambda s: s[0]['type'])
def test_combinations_train_or_are_refused(student):
    first = STUDENTS.index(student) * len(TEACHERS) * len(PREDICT)
    student, width, side = student
    for turn, ((teacher, channels), predict) in enumerate(
        product(TEACHERS, PREDICT), first
    ):
        discrete = teacher is tiny.TOKENIZER
        heads = DECODERS if student['type'] == 'VisibleViT' else HEADS
        parts = dict(
            backbone=scoped(dict(student, img_size=4 * side)),
            teacher=scoped(teacher),
            normalizer=scoped(NORMALIZERS[0 if discrete else turn % len(NORMALIZERS)]),
            head=scoped(
                dict(heads[turn % 2], in_channels=width, out_channels=channels or width)
            ),
            loss=scoped('CrossEntropyLoss' if discrete else LOSSES[turn % len(LOSSES)]),
            predict=predict,
        )
        if not fits(student, teacher, predict):
            with pytest.raises(ConfigError):
                MaskDistill(**parts)
            continue
        model = MaskDistill(**parts)
        model.init_weights()
        mask = torch.arange(16) % 3 > 0
        # DALL-E's tokenizer has patches of 8 pixels, the other teachers of 16 pixels.
        size = 32 if discrete else 64
        views = [torch.randn(2, 3, 4 * side, 4 * side), torch.rand(2, 3, size, size)]
        loss = model.loss(views, [DataSample().set_mask(mask)] * 2)['loss']
        loss.backward()
        assert loss.isfinite(), parts
        assert any(
            p.grad.any() for p in model.backbone.parameters() if p.grad is not None
        ), parts
