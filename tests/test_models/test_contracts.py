"""Each kind of part has a base class that says what it owes, with defaults."""

import pytest
import torch
from helpers import tiny
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from torch import nn

import mmmaskdistill.models as models
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import (
    CachedTeacher,
    Head,
    Loss,
    MaskDistillViT,
    MaskedSwin,
    MaskedTimm,
    Masking,
    Normalizer,
    Student,
    Teacher,
    TeacherList,
)
from mmmaskdistill.models.losses.base import classifies, splits
from mmmaskdistill.registry import MODELS

VIT = tiny.TEACHER
PIXELS = tiny.PIXELS
NONE = dict(type='mmmaskdistill.NoNormalizer')
LINEAR = tiny.LINEAR
TOKENIZER = tiny.TOKENIZER


def build(**parts):
    return tiny.build(**{**tiny.PIXEL_PARTS, **parts}).eval()


def loss(model):
    mask = torch.arange(16) < 6
    return model.loss(torch.randn(2, 3, 64, 64), [DataSample(mask=mask)] * 2)['loss']


@pytest.mark.parametrize(
    'base, ending',
    [
        (Teacher, 'Teacher'),
        (Normalizer, 'Normalizer'),
        (Head, 'Head'),
        (Student, 'ViT'),
        (Student, 'MaskedSwin'),
        (Student, 'MaskedTimm'),
        (Teacher, 'TeacherList'),
        (Head, 'HeadList'),
        (Loss, 'LossList'),
        (Masking, 'AttentionMask'),
    ],
)
def test_all_parts_inherit_from_the_base_class_of_their_kind(base, ending):
    parts = [
        getattr(models, name)
        for name in models.__all__
        if name.endswith(ending) and name != 'UPerHead'
    ]
    assert parts and all(issubclass(part, base) for part in parts)


def test_students_say_what_they_return():
    """The attributes describe the tokens that ``forward`` returns."""
    students = [
        MaskDistillViT(arch=tiny.ARCH, img_size=64),
        models.AllTokensViT(arch=tiny.ARCH, img_size=64),
        models.AllTokensViT(arch=tiny.ARCH, img_size=64, class_token=True),
        models.PatchAggregationViT(arch=tiny.ARCH, img_size=64, early_layers=1),
        models.VisibleViT(arch=tiny.ARCH, img_size=64),
        MaskedSwin(**tiny.SWIN, img_size=64),
        MaskedTimm('test_vit', img_size=64),
        MaskedTimm('test_resnet', img_size=64, fill='mean'),
    ]
    for student in students:
        h, w = student.grid
        assert (h * student.stride, w * student.stride) == (64, 64)
        mask = torch.arange(h * w).expand(2, -1) % 4 > 0
        hidden = int(mask.sum())
        outputs = student(torch.randn(2, 3, 64, 64), mask)
        for tokens in outputs if isinstance(outputs, tuple) else [outputs]:
            assert (
                tokens.shape
                == {
                    'hidden': (hidden, student.width),
                    'all': (2, student.class_token + h * w, student.width),
                    'visible': (2, 1 + h * w - hidden // 2, student.width),
                }[student.tokens]
            )
        token = student.mask_token
        assert token is None or isinstance(token, nn.Parameter)


def test_layer_decay_refuses_a_student_that_knows_no_depths():
    model = nn.Module()
    model.backbone = Student()
    model.backbone.layer = nn.Linear(2, 2)
    with pytest.raises(
        ConfigError,
        match='layer decay asks the student Student for the depth of '
        'backbone.layer.weight, .* implement get_layer_depth',
    ):
        build_optim_wrapper(
            model,
            dict(
                optimizer=dict(type='AdamW'),
                constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.5),
            ),
        )


@MODELS.register_module()
class EdgeTeacher(Teacher):
    """A teacher that says nothing of itself but its size."""

    def __init__(self):
        super().__init__(64, stride=16, channels=3)
        self.eval()

    def forward(self, images, data_samples=None):
        patches = images.unflatten(3, (4, 16)).unflatten(2, (4, 16))
        return patches[:, :, :, 0, :, 0].flatten(2).mT


def test_defaults_of_a_teacher():
    teacher = EdgeTeacher()
    assert teacher.name == 'EdgeTeacher' and teacher.names == ['EdgeTeacher']
    assert teacher.grid == (4, 4) and teacher.img_size == (64, 64)
    assert not teacher.train().training
    images, where = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.5
    assert torch.equal(teacher.at(images, where), teacher(images)[where])
    for refused in (
        lambda: teacher.attend(images),
        lambda: teacher.follow(nn.Identity()),
        lambda: teacher.update(nn.Identity()),
        lambda: teacher.match_grid((2, 2)),
    ):
        with pytest.raises(ConfigError, match='EdgeTeacher'):
            refused()
    model = build(
        teacher=dict(type='mmmaskdistill.EdgeTeacher'),
        head=dict(LINEAR, out_channels=3),
    )
    assert loss(model).isfinite()


def test_timm_teacher_returns_features_at_the_class_token():
    teacher = models.TimmTeacher(
        'test_vit', pretrained='random', img_size=64, class_token=True
    )
    images, where = torch.randn(2, 3, 64, 64), torch.rand(2, 17) < 0.5
    assert torch.equal(teacher.at(images, where), teacher(images)[where])


@pytest.mark.parametrize('kind', ['BatchNormalizer', 'InstanceNormalizer'])
def test_normalizers_over_several_tokens_see_all_patches(kind):
    """The teacher may skip patches only for a normalizer that is ``per_token``."""
    model = build(
        teacher=VIT,
        normalizer=dict(type=f'mmmaskdistill.{kind}'),
        head=dict(LINEAR, out_channels=64),
    )
    images, mask = torch.randn(2, 3, 64, 64), torch.arange(16) < 6
    assert model.teacher.can_skip
    expected = model.normalizer(model.teacher(images))[:, :6].flatten(0, 1)
    torch.testing.assert_close(model.target(images, mask.expand(2, -1)), expected)


def test_cached_teacher_passes_on_what_its_teacher_offers():
    normalizer = dict(type='mmmaskdistill.LayerNormalizer')
    several = CachedTeacher(
        dict(
            type='mmmaskdistill.TeacherList',
            teachers=[VIT, PIXELS],
            normalizers=[normalizer] * 2,
        )
    )
    assert several.splits == [64, 768]
    assert several.names == ['test_vit', 'PixelTeacher']
    assert several.name == 'test_vit + PixelTeacher'
    one = CachedTeacher(dict(VIT, class_token=True))
    assert one.class_token and one.teacher.returns_attention
    for cached in (several, one):
        assert cached.grid == (4, 4) and cached.img_size == (64, 64)
        assert cached.stride == 16 and cached.channels == cached.teacher.channels
        assert isinstance(cached, Teacher) and not cached.train().teacher.training
    resized = CachedTeacher(dict(VIT, resize='bilinear'))
    resized.match_grid((6, 6))
    assert resized.grid == (6, 6)
    assert resized(torch.randn(2, 3, 64, 64)).shape == (2, 36, 64)


def test_several_cached_teachers_train():
    model = build(
        teacher=dict(
            type='mmmaskdistill.CachedTeacher',
            teacher=dict(
                type='mmmaskdistill.TeacherList',
                teachers=[VIT, PIXELS],
                normalizers=[dict(type='mmmaskdistill.LayerNormalizer')] * 2,
            ),
        ),
        head=dict(
            type='mmmaskdistill.HeadList',
            heads=[dict(LINEAR, out_channels=64), dict(LINEAR, out_channels=768)],
        ),
        loss=dict(
            type='mmmaskdistill.LossList',
            losses=[dict(type='mmmaskdistill.MSELoss')] * 2,
            channels=[64, 768],
            weights=[1.0, 1.0],
        ),
    )
    mask = torch.arange(16) < 6
    samples = [DataSample(mask=mask, metainfo=dict(sample_idx=i)) for i in range(2)]
    images = torch.randn(2, 3, 64, 64)
    first, second = (model.loss(images, samples)['loss'] for _ in range(2))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    'teacher, words',
    [
        (TOKENIZER, 'half precision.*DALLETeacher'),
        (dict(type='mmmaskdistill.MomentumTeacher'), 'MomentumTeacher.*change while'),
    ],
)
def test_cached_teacher_refuses_what_it_cannot_pass_on(teacher, words):
    with pytest.raises(ConfigError, match=words):
        CachedTeacher(teacher)


def test_attention_of_a_cached_teacher_is_refused():
    with pytest.raises(ConfigError, match='CachedTeacher test_vit does not return'):
        build(
            teacher=dict(type='mmmaskdistill.CachedTeacher', teacher=VIT),
            head=dict(LINEAR, out_channels=64),
            masking=dict(type='mmmaskdistill.AttentionMask', num_masking_patches=12),
        )


@MODELS.register_module()
class ForeignPart(nn.Module):
    """A module that inherits from no base class."""

    in_features, out_features = 24, 768

    def forward(self, x):
        return x


FOREIGN = dict(type='mmmaskdistill.ForeignPart')


@pytest.mark.parametrize(
    'parts, base',
    [
        (dict(teacher=FOREIGN), 'Teacher'),
        (dict(normalizer=FOREIGN), 'Normalizer'),
        (dict(head=FOREIGN), 'Head'),
        (dict(backbone=FOREIGN), 'Student'),
        (dict(masking=FOREIGN), 'Masking'),
        (
            dict(teacher=dict(type='mmmaskdistill.CachedTeacher', teacher=FOREIGN)),
            'Teacher',
        ),
        (dict(head=dict(type='mmmaskdistill.HeadList', heads=[FOREIGN])), 'Head'),
    ],
)
def test_parts_without_their_base_class_are_refused(parts, base):
    with pytest.raises(
        ConfigError, match=rf'ForeignPart.*mmmaskdistill\.models\.{base}'
    ):
        build(**parts)


def test_teachers_and_normalizers_of_a_list_need_their_base_class():
    for teachers, normalizers, base in (
        ([FOREIGN], [NONE], 'Teacher'),
        ([PIXELS], [FOREIGN], 'Normalizer'),
    ):
        with pytest.raises(ConfigError, match=rf'ForeignPart.*models\.{base}'):
            TeacherList(teachers, normalizers)


@MODELS.register_module()
class OwnDistance(nn.Module):
    """A loss that inherits from no base class."""

    def forward(self, prediction, target):
        return (prediction - target).abs().sqrt().mean()


@MODELS.register_module()
class OwnCrossEntropy(Loss):
    """A loss that classifies, without a module of torch's."""

    classifies = True

    def forward(self, prediction, target):
        return -prediction.log_softmax(-1).gather(-1, target[:, None]).mean()


def test_losses_of_other_libraries_and_own_modules_can_be_used():
    for kind in (
        'mmmaskdistill.OwnDistance',
        'mmpretrain.CosineSimilarityLoss',
        nn.HuberLoss,
    ):
        model = build(loss=dict(type=kind))
        assert loss(model).isfinite()
        assert not classifies(model.distance) and splits(model.distance) is None
    with pytest.raises(ConfigError, match='DALLETeacher.*OwnDistance'):
        build(teacher=TOKENIZER, loss=dict(type='mmmaskdistill.OwnDistance'))


def test_losses_that_classify():
    for kind, expected in (
        (nn.CrossEntropyLoss(), True),
        (MODELS.build(dict(type='mmpretrain.CrossEntropyLoss')), True),
        (OwnCrossEntropy(), True),
        (nn.MSELoss(), False),
        (nn.Sequential(nn.CrossEntropyLoss()), True),
    ):
        assert classifies(kind) is expected
    listed = models.LossList(
        [dict(type='mmmaskdistill.OwnCrossEntropy')], channels=[40], weights=[1.0]
    )
    assert classifies(listed) and splits(listed) == [40]
    model = build(
        teacher=TOKENIZER,
        loss=dict(type='mmmaskdistill.OwnCrossEntropy'),
        head=dict(type='mmmaskdistill.CodebookHead', in_channels=24, vocab_size=40),
    )
    mask = torch.arange(16) < 6
    views = [torch.randn(2, 3, 64, 64), torch.rand(2, 3, 32, 32)]
    assert model.loss(views, [DataSample(mask=mask)] * 2)['loss'].isfinite()


def test_heads_of_a_list_must_agree():
    decoder = dict(
        type='mmmaskdistill.PromptDecoderHead',
        in_channels=24,
        out_channels=768,
        grid=4,
        embed_dims=16,
        num_layers=1,
        num_heads=2,
    )
    with pytest.raises(ConfigError, match=r'class_token \[True, False\]'):
        models.HeadList([dict(decoder, class_token=True), decoder])
    heads = models.HeadList([decoder] * 2)
    assert heads.grid == (4, 4) and heads.decodes_visible and not heads.class_token


@MODELS.register_module()
class MistypedStudent(MaskDistillViT):
    tokens = 'everything'


def test_students_of_unknown_tokens_are_refused():
    backbone = dict(type='mmmaskdistill.MistypedStudent', arch=tiny.ARCH, img_size=64)
    with pytest.raises(ConfigError, match="'everything'.*hidden, all, visible"):
        build(backbone=backbone)
