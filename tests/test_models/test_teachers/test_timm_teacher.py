import logging
from copy import deepcopy

import pytest
import timm
import torch
from benchmarks import measure
from helpers import tiny
from mmpretrain.structures import DataSample
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import Block
from torch import nn

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT, TimmTeacher
from mmmaskdistill.models.layers import freeze_layers, take, thaw_layers
from mmmaskdistill.models.layers.frozen import FrozenLinear, FrozenQuickGELU
from mmmaskdistill.models.teachers.last_block import can_skip, run_at

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tower(tmp_path):
    """timm's smallest ViT with a projection head, and its state dict in a file."""
    model = timm.create_model('test_vit', img_size=96)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path / 'tower.pth'
    torch.save(model.state_dict(), path)
    return model.eval(), str(path)


def test_features_equal_timms(tower):
    model, path = tower
    with torch.no_grad():
        x = model.patch_embed(IMAGES)
        x = model.blocks(model.norm_pre(model._pos_embed(x)))
        block = x[:, model.num_prefix_tokens :]
        norm = model.norm(x)[:, model.num_prefix_tokens :]
        expected = dict(block=block, norm=norm, proj=model.head(norm))
    for features, target in expected.items():
        teacher = TimmTeacher(
            'test_vit', checkpoint=path, features=features, img_size=96
        )
        torch.testing.assert_close(teacher(IMAGES), target, rtol=1e-5, atol=1e-5)
        assert teacher.grid == (6, 6)
        assert teacher.channels == target.shape[2]


@pytest.mark.parametrize(
    'model,options',
    [
        ('test_vit', {}),
        ('test_vit', dict(features='norm')),
        ('test_vit', dict(features='proj')),
        ('test_vit', dict(layer=1)),
        ('test_vit2', {}),  # has layer scale
        ('vit_base_patch16_siglip_224', {}),  # has no class token
    ],
)
def test_features_of_selected_patches_equal_those_of_all(model, options):
    torch.manual_seed(0)
    teacher = TimmTeacher(model, pretrained='random', img_size=96, **options)
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    where = torch.rand(2, 36) < 0.4
    assert len(set(where.sum(1).tolist())) == 2
    assert teacher.can_skip
    some = teacher.at(IMAGES, where)
    torch.testing.assert_close(some, teacher(IMAGES)[where], rtol=1e-5, atol=1e-5)
    assert teacher.at(IMAGES, torch.zeros_like(where)).shape == (0, teacher.channels)


def test_selected_tokens_of_a_block_with_normalized_keys():
    torch.manual_seed(0)
    block = Block(64, 2, init_values=0.5, qk_norm=True)
    x, index = torch.randn(2, 36, 64), torch.randint(36, (2, 5))
    assert can_skip(block)
    torch.testing.assert_close(
        run_at(block, x, index), take(block(x), index), rtol=1e-5, atol=1e-5
    )


def test_unselected_patches_save_flops_in_the_last_block():
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=96)
    where = torch.zeros(2, 36, dtype=torch.bool)
    where[:, :14] = True
    mlp, width = teacher.model.blocks[-1].mlp.fc1.weight.shape
    saved = measure.count_flops(lambda: teacher(IMAGES)) - measure.count_flops(
        lambda: teacher.at(IMAGES, where)
    )
    # 23 tokens have no query, attention weights, weighted sum, projection and MLP.
    assert saved == 2 * 23 * (4 * width**2 + 4 * 37 * width + 4 * width * mlp)


@pytest.mark.parametrize(
    'model,options',
    [
        ('test_vit', dict(layer=0)),
        ('test_vit', dict(layer=(-1, -2))),
        ('test_vit', dict(resize='bilinear')),
        ('test_resnet', dict(layer=3)),
        pytest.param(
            'test_vit_relpos',
            {},
            marks=pytest.mark.skipif(
                not timm.is_model('test_vit_relpos'), reason='timm before 1.0.31'
            ),
        ),
    ],
)
def test_teachers_that_cannot_skip_patches(model, options):
    assert not TimmTeacher(model, pretrained='random', img_size=96, **options).can_skip


def test_frozen_linear_layers_equal_the_plain_ones(tower):
    """They compute the same with either library, and pass gradients to the input."""
    model, path = tower
    teacher = TimmTeacher('test_vit', checkpoint=path, img_size=96)
    layer, plain = teacher.model.blocks[0].mlp.fc1, model.blocks[0].mlp.fc1
    assert isinstance(layer, FrozenLinear)
    x = torch.randn(3, plain.in_features, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    got, wanted = (torch.autograd.grad(f(x).sum(), x)[0] for f in (layer, plain))
    torch.testing.assert_close(got, wanted)


def test_frozen_quick_gelu_equals_timms():
    """Without gradients it works in place, otherwise it computes what timm's does.

    Thawing the model restores timm's own layers.
    """
    torch.manual_seed(0)
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=96)
    plain = deepcopy(teacher.model)
    for model in (teacher.model, plain):
        for block in model.blocks:
            block.mlp.act = QuickGELU()
    freeze_layers(teacher.model)
    act = teacher.model.blocks[0].mlp.act
    assert type(act) is FrozenQuickGELU

    x = torch.linspace(-12, 12, 481, requires_grad=True)
    wanted = x * torch.sigmoid(1.702 * x)
    torch.testing.assert_close(act(x), wanted)
    torch.testing.assert_close(
        torch.autograd.grad(act(x).sum(), x), torch.autograd.grad(wanted.sum(), x)
    )
    with torch.no_grad():
        given = x.clone()
        assert act(given) is given
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)

    features = teacher(IMAGES)
    thaw_layers(plain)
    maps = plain.forward_intermediates(
        IMAGES, indices=1, intermediates_only=True, norm=False
    )[0]
    torch.testing.assert_close(
        features, maps.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5
    )
    thaw_layers(teacher.model)
    assert type(act) is QuickGELU
    assert type(teacher.model.blocks[0].mlp.fc1) is nn.Linear


def test_features_of_a_convolutional_teacher():
    torch.manual_seed(0)
    teacher = TimmTeacher('test_resnet', pretrained='random', layer=3, img_size=96)
    maps = teacher.model.forward_intermediates(
        IMAGES, indices=[3], intermediates_only=True
    )[0]
    assert teacher.stride == 16 and teacher.grid == (6, 6)
    torch.testing.assert_close(teacher(IMAGES), maps.flatten(2).transpose(1, 2))


def test_position_embedding_is_resized_for_another_input(tower):
    _, path = tower
    teacher = TimmTeacher('test_vit', checkpoint=path, img_size=64)
    assert teacher.grid == (4, 4)
    assert teacher(IMAGES[..., :64, :64]).shape[1] == 16


@pytest.mark.parametrize(
    'name, patch, width',
    [
        ('vit_small_patch16_224.dino', 16, 384),
        ('vit_small_patch14_reg4_dinov2.lvd142m', 14, 384),
        ('vit_small_patch16_dinov3.lvd1689m', 16, 384),
        ('vit_base_patch16_siglip_224.v2_webli', 16, 768),
        ('eva02_tiny_patch14_224.mim_in22k', 14, 192),
        ('vit_base_patch16_clip_quickgelu_224.openai', 16, 768),
        ('convnext_tiny.dinov3_lvd1689m', 32, 768),
    ],
)
def test_model_families_can_be_teachers(name, patch, width):
    """The installed timm has these models; each returns only patch tokens."""
    with torch.device('meta'):
        teacher = TimmTeacher(name, pretrained='random', img_size=7 * patch)
        features = teacher(torch.empty(2, 3, 7 * patch, 7 * patch))
    assert features.shape == (2, 49, width)
    assert teacher.grid == (7, 7) and teacher.channels == width


def test_teacher_is_frozen_and_in_eval_mode():
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=96)
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(IMAGES).requires_grad


def test_other_patch_grids_are_refused():
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=96)
    with pytest.raises(ValueError) as error:
        teacher.match_grid((8, 8))
    for part in ('6 x 6', '8 x 8', '128 x 128 pixels', "resize='bilinear'"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match='grid of 4 x 4'):
        teacher(IMAGES[..., :64, :64])


def test_features_are_resized_bilinearly():
    torch.manual_seed(0)
    teacher = TimmTeacher(
        'test_resnet', pretrained='random', layer=4, img_size=96, resize='bilinear'
    )
    teacher.match_grid((6, 6))
    maps = teacher.model.forward_intermediates(
        IMAGES, indices=[4], intermediates_only=True
    )[0]
    assert maps.shape[2:] == (3, 3)
    expected = torch.nn.functional.interpolate(maps, (6, 6), mode='bilinear')
    torch.testing.assert_close(teacher(IMAGES), expected.flatten(2).transpose(1, 2))


def test_missing_weights_are_an_error(monkeypatch):
    with pytest.raises(CheckpointError, match="pretrained='random'"):
        TimmTeacher('test_vit', pretrained=False)
    create = timm.create_model

    def unreachable(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError('no network')
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, 'create_model', unreachable)
    with pytest.raises(CheckpointError, match='checkpoint=.*no network'):
        TimmTeacher('test_vit')


def test_random_teacher_warns(caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    TimmTeacher('test_vit', pretrained='random', img_size=96)
    logger.removeHandler(caplog.handler)
    assert any(
        r.levelno == logging.WARNING and 'random weights' in r.message
        for r in caplog.records
    )


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(model_name='vit_nonsense'), "'vit_nonsense' is not a model"),
        (dict(features='pixels'), "features='pixels'"),
        (dict(layer=99), 'layer=99'),
        (dict(resize='cubic'), "resize='cubic'"),
        (dict(pretrained='yes'), "pretrained='yes'"),
        (dict(model_name='test_efficientnet', features='proj'), 'no linear projection'),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TimmTeacher(**{'model_name': 'test_vit', 'pretrained': 'random', **wrong})


def test_weights_of_another_model_are_refused(tower):
    _, path = tower
    with pytest.raises(
        CheckpointError, match='not fit the teacher test_vit2: .* and .* more'
    ) as error:
        TimmTeacher('test_vit2', checkpoint=path)
    assert 'size mismatch' in str(error.value) or 'missing' in str(error.value)
    assert '\n' not in str(error.value)


def test_features_of_several_layers_are_averaged():
    layers = (1, 3, -1)
    mean = TimmTeacher('test_vit', pretrained='random', layer=layers, img_size=64)
    images = torch.randn(2, 3, 64, 64)
    expected = torch.zeros(2, 16, 64)
    for layer in layers:
        one = TimmTeacher('test_vit', pretrained='random', layer=layer, img_size=64)
        one.load_state_dict(mean.state_dict())
        variance, center = torch.var_mean(one(images), -1, unbiased=False, keepdim=True)
        expected += (one(images) - center) / (variance + 1e-6) ** 0.5 / 3
    torch.testing.assert_close(mean(images), expected)
    with pytest.raises(ValueError, match='same width and stride'):
        TimmTeacher('test_resnet', pretrained='random', layer=(1, -1))


@pytest.mark.parametrize('features', ['norm', 'proj'])
def test_class_token_of_the_teacher_is_predicted(features):
    """It precedes the patches of teacher and student and counts in the loss."""
    teacher = TimmTeacher(
        'test_vit',
        pretrained='random',
        features=features,
        img_size=64,
        class_token=True,
    )
    images, mask = tiny.masked()
    expected = teacher.model.forward_features(images)
    if features == 'proj':
        expected = teacher.model.head(expected)
    torch.testing.assert_close(teacher(images), expected)
    torch.testing.assert_close(teacher.attend(images)[0], expected)
    assert not teacher.can_skip

    model = tiny.build(
        backbone=dict(
            tiny.STUDENT, type='mmmaskdistill.AllTokensViT', class_token=True
        ),
        teacher=dict(tiny.TEACHER, features=features, class_token=True),
        normalizer=dict(type='mmmaskdistill.NoNormalizer'),
        head=dict(tiny.LINEAR, out_channels=expected.shape[-1]),
        loss=dict(type='mmmaskdistill.MSELoss'),
    )
    model.eval().teacher.load_state_dict(teacher.state_dict())
    plain = MaskDistillViT(arch=tiny.ARCH, img_size=64, out_type='raw').eval()
    plain.load_state_dict(model.backbone.state_dict())
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(model.backbone(images, nothing), plain(images)[0])

    samples = [DataSample().set_mask(m) for m in mask]
    error = (model.head(model.backbone(images, mask)) - expected) ** 2
    counts = torch.cat([torch.ones(2, 1, dtype=torch.bool), mask], 1)
    torch.testing.assert_close(
        model.loss(images, samples)['loss'], error[counts].mean()
    )
    comparison = model.compare(images, samples)
    assert comparison.target.shape == comparison.prediction.shape
    torch.testing.assert_close(comparison.target, expected[:, 1:])
    torch.testing.assert_close(comparison.error[mask], error[:, 1:][mask].mean(-1))
