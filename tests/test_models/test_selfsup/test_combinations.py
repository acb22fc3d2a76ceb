"""Parts that do not fit together are refused when the model is built."""

import pytest
import torch
from helpers import tiny
from mmpretrain.structures import DataSample

from mmmaskdistill.errors import ConfigError

VIT = tiny.STUDENT
VISIBLE = dict(VIT, type='mmmaskdistill.VisibleViT')
ALL = dict(VIT, type='mmmaskdistill.AllTokensViT')
PIXELS = tiny.PIXELS
VIT_TEACHER = tiny.TEACHER
LINEAR = dict(tiny.LINEAR, out_channels=768)
DECODER = tiny.DECODER
TOKENIZER = tiny.TOKENIZER
CODEBOOK = dict(type='mmmaskdistill.CodebookHead', in_channels=24)
CROSS_ENTROPY = dict(type='mmmaskdistill.CrossEntropyLoss')


def build(**parts):
    return tiny.build(**{**tiny.PIXEL_PARTS, **parts})


# Parts to change, and words that the error must contain.
REFUSED_PARTS = [
    (
        dict(teacher=TOKENIZER, head=dict(CODEBOOK, vocab_size=40)),
        ('DALLETeacher', 'MSELoss', 'CrossEntropyLoss'),
    ),
    (
        dict(
            teacher=TOKENIZER,
            loss=CROSS_ENTROPY,
            normalizer=dict(type='mmmaskdistill.L2Normalizer'),
            head=dict(CODEBOOK, vocab_size=40),
        ),
        ('DALLETeacher', 'L2Normalizer', 'NoNormalizer'),
    ),
    (
        dict(teacher=TOKENIZER, loss=CROSS_ENTROPY, head=dict(CODEBOOK, vocab_size=41)),
        ('41', 'vocab_size=40'),
    ),
    (dict(teacher=dict(TOKENIZER, pretrained='not')), ("'not'",)),
    (
        dict(loss=dict(type='mmmaskdistill.CrossEntropyLoss')),
        ('CrossEntropyLoss', 'PixelTeacher', 'SmoothL1Loss'),
    ),
    (
        dict(loss=dict(type='mmpretrain.CrossEntropyLoss')),
        ('CrossEntropyLoss', 'PixelTeacher'),
    ),
    (dict(backbone=VISIBLE), ('VisibleViT', 'LinearHead', 'DecoderHead')),
    (dict(head=DECODER), ('DecoderHead', 'MaskDistillViT', 'VisibleViT')),
    (
        dict(backbone=VISIBLE, head=dict(DECODER, grid=14)),
        ('14 x 14', '4 x 4', 'head.grid=(4, 4)'),
    ),
    (
        dict(
            backbone=VISIBLE,
            head=dict(type='mmmaskdistill.HeadList', heads=[dict(DECODER, grid=14)]),
        ),
        ('14 x 14', '4 x 4'),
    ),
    (dict(backbone=dict(type='mmpretrain.ResNet', depth=18)), ('ResNet', 'MaskedTimm')),
    (
        dict(backbone=dict(ALL, class_token=True), predict='all'),
        ('PixelTeacher', 'class_token=False', 'class_token=True'),
    ),
    (
        dict(teacher=dict(VIT_TEACHER, class_token=True)),
        ('test_vit', 'class_token=True', 'MaskDistillViT'),
    ),
    (
        dict(teacher=dict(VIT_TEACHER, layer=(0, 1), class_token=True)),
        ('class_token=True', 'layer=(0, 1)'),
    ),
    (
        dict(teacher=dict(VIT_TEACHER, model_name='test_resnet', class_token=True)),
        ('class_token=True', 'test_resnet'),
    ),
    (dict(predict='all'), ("'all'", 'MaskDistillViT', 'AllTokensViT')),
    (dict(predict='some'), ("'some'", 'hidden, all, visible')),
    (dict(backbone=dict(VIT, img_size=96)), ('4 x 4', '6 x 6', '96 x 96')),
    (dict(head=dict(LINEAR, out_channels=5)), ('5', 'out_channels=768')),
    (dict(head=dict(LINEAR, in_channels=5)), ('5', 'in_channels=24')),
    (
        dict(backbone=dict(VISIBLE, use_rel_pos_bias=True), head=DECODER),
        ('use_rel_pos_bias', 'MaskDistillViT'),
    ),
    (dict(backbone=dict(VISIBLE, img_size=(64, 96)), head=DECODER), ('4 x 6',)),
    (dict(head=dict(DECODER, grid=(4, 6))), ('(4, 6)',)),
    (
        dict(teacher=dict(type='mmmaskdistill.HOGTeacher', patch_size=12)),
        ('patch_size=12', 'cell=8'),
    ),
]


@pytest.mark.parametrize('parts, words', REFUSED_PARTS)
def test_parts_that_do_not_fit_are_refused(parts, words):
    with pytest.raises(ConfigError) as error:
        build(**parts)
    for word in words:
        assert word in str(error.value)


def loss(model, mask):
    mask = torch.tensor(mask)
    images = torch.randn(len(mask), 3, 64, 64)
    return model.loss(images, [DataSample().set_mask(m) for m in mask])['loss']


def test_mask_with_nothing_to_predict_is_refused():
    nothing = [[0] * 16] * 2
    with pytest.raises(ConfigError, match="predict='hidden'"):
        loss(build(), nothing)
    assert loss(build(backbone=ALL, predict='all'), nothing).isfinite()


@pytest.mark.parametrize(
    'student',
    [
        VIT,
        ALL,
        VISIBLE,
        dict(type='mmmaskdistill.MaskedTimm', model_name='test_vit', img_size=64),
    ],
)
def test_masks_of_another_grid_are_refused(student):
    head = dict(LINEAR, in_channels=64) if 'Timm' in student['type'] else LINEAR
    model = build(backbone=student, head=DECODER if student is VISIBLE else head)
    with pytest.raises(ConfigError, match=r'9 patches.* 4 x 4: set input_siz'):
        loss(model, [[1] * 3 + [0] * 6] * 2)


def test_sparse_students_refuse_uneven_masks():
    model = build(backbone=VISIBLE, head=DECODER)
    with pytest.raises(ConfigError, match='13 to 14 visible'):
        loss(model, [[1] * 3 + [0] * 13, [1] * 2 + [0] * 14])
