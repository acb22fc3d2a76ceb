"""Normalizers, heads, students and teachers against formulas and other libraries."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.models import SwinTransformer, TIMMBackbone
from mmpretrain.structures import DataSample

from mmmaskdistill.models import MaskDistill, MaskDistillViT, TimmTeacher
from mmmaskdistill.models.backbones import (
    AllTokensViT,
    MaskedSwin,
    MaskedTimm,
    PatchAggregationViT,
    VisibleViT,
)
from mmmaskdistill.models.checkpoints import load_backbone
from mmmaskdistill.models.heads import MLPHead
from mmmaskdistill.models.normalizers import (
    BatchNormalizer,
    InstanceNormalizer,
    L2Normalizer,
    NoNormalizer,
    PatchPixelNormalizer,
)

ARCH = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)


@pytest.mark.parametrize(
    'kind, dims, unbiased',
    [
        (PatchPixelNormalizer, (2,), True),
        (InstanceNormalizer, (1,), False),
        (BatchNormalizer, (0, 1), False),
    ],
)
def test_variance_normalizers_equal_the_formula(kind, dims, unbiased):
    x = 3 * torch.randn(4, 5, 7, dtype=torch.float64) + 1
    variance, mean = torch.var_mean(x, dims, unbiased=unbiased, keepdim=True)
    torch.testing.assert_close(kind()(x), (x - mean) / (variance + 1e-6) ** 0.5)


def test_l2_and_no_normalizer_equal_the_formula():
    x = torch.randn(4, 5, 7)
    expected = x / x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(L2Normalizer()(x), expected)
    assert NoNormalizer()(x) is x


def test_mlp_head_has_the_configured_layers():
    head = MLPHead(4, 6, hidden_channels=5, num_layers=3)
    head.init_weights()
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(5, 4), (5, 5), (6, 5)]
    assert all(0 < p.abs().max() <= 0.02 for p in head.parameters() if p.ndim == 2)
    assert head(torch.randn(2, 3, 4)).shape == (2, 3, 6)


def masked(side=4, hidden=7):
    mask = torch.zeros(2, side**2, dtype=torch.bool)
    mask[0, :hidden] = mask[1, -hidden:] = True
    return torch.randn(2, 3, 64, 64), mask


def test_all_tokens_vit_includes_the_hidden_tokens():
    images, mask = masked()
    student = AllTokensViT(arch=ARCH, img_size=64).eval()
    student.init_weights()
    only_hidden = MaskDistillViT(arch=ARCH, img_size=64).eval()
    only_hidden.load_state_dict(student.state_dict())
    tokens = student(images, mask)
    assert tokens.shape == (2, 16, 24)
    torch.testing.assert_close(tokens[mask], only_hidden(images, mask))
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(
        student(images, nothing), only_hidden(images)[0].flatten(2).mT
    )


def test_patch_aggregation_vit_returns_two_readouts(tmp_path):
    """The second output combines the last class token with earlier patch tokens."""
    images, mask = masked()
    student = PatchAggregationViT(early_layers=1, arch=ARCH, img_size=64).eval()
    student.init_weights()
    last, aggregated = student(images, mask)
    plain = MaskDistillViT(arch=ARCH, img_size=64).eval()
    torch.save(student.state_dict(), tmp_path / 'student.pth')
    load_backbone(plain, str(tmp_path / 'student.pth'))
    torch.testing.assert_close(last, plain(images, mask))

    tokens, grid = student._embed(images, mask)
    bias = student.rel_pos_bias(grid)
    early = student.blocks[0](tokens, grid, bias)
    late = student.blocks[1](early, grid, bias)
    tokens = torch.cat([late[:, :1], early[:, 1:]], 1)
    for block in student.cls_pt_layers:
        tokens = block(tokens, grid, bias)
    torch.testing.assert_close(aggregated, student.norm(tokens[:, 1:][mask]))
    with pytest.raises(ValueError, match='early_layers=2'):
        PatchAggregationViT(early_layers=2, arch=ARCH)


def test_visible_vit_does_not_see_hidden_patches(tmp_path):
    images, mask = masked()
    student = VisibleViT(arch=ARCH, img_size=64).eval()
    student.init_weights()
    tokens = student(images, mask)
    assert tokens.shape == (2, 10, 24)
    pixels = mask.unflatten(1, (4, 4))[:, None]
    pixels = pixels.repeat_interleave(16, 2).repeat_interleave(16, 3)
    torch.testing.assert_close(student(images.masked_fill(pixels, 9.0), mask), tokens)

    # After pre-training, MaskDistillViT loads its weights.
    torch.save(student.state_dict(), tmp_path / 'student.pth')
    backbone = MaskDistillViT(
        arch=ARCH,
        img_size=64,
        use_abs_pos_emb=True,
        use_shared_rel_pos_bias=False,
        layer_scale_init_value=0.0,
    ).eval()
    load_backbone(backbone, str(tmp_path / 'student.pth'))
    every = student(images, torch.zeros_like(mask))[:, 1:]
    torch.testing.assert_close(backbone(images)[0].flatten(2).mT, every)


def test_masked_swin_loads_into_mmpretrains_swin():
    init_default_scope('mmpretrain')
    args = dict(
        arch=dict(embed_dims=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 3]),
        img_size=64,
        stage_cfgs=dict(block_cfgs=dict(window_size=2)),
    )
    student, swin = MaskedSwin(**args), SwinTransformer(**args)
    student.init_weights()
    student.eval(), swin.eval()  # `eval` returns None here.
    missing, unused = swin.load_state_dict(student.state_dict(), strict=False)
    assert not missing and unused == ['mask_token']
    images, mask = masked(2, 2)
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(student(images, nothing), swin(images)[0].flatten(2).mT)
    student(images)[0].sum().backward()
    assert not [
        k for k, p in student.named_parameters() if p.requires_grad and p.grad is None
    ]
    hidden = student(images, mask)
    assert hidden.shape == (2, 4, 96)
    student.mask_token.data += 1
    assert not torch.allclose(student(images, mask), hidden)


@pytest.mark.parametrize('fill', ['learned', 'mean'])
@pytest.mark.parametrize(
    'name', ['test_vit', 'test_resnet', 'test_convnext', 'test_efficientnet']
)
def test_masked_timm_hides_patches_and_loads_into_mmpretrain(name, fill):
    student = MaskedTimm(name, img_size=64, fill=fill)
    h, w = student.grid
    mask = torch.zeros(2, h * w, dtype=torch.bool)
    mask[:, ::2] = True
    images = torch.randn(2, 3, 64, 64)
    pixels = mask.unflatten(1, (h, w))[:, None]
    for dim in (2, 3):
        pixels = pixels.repeat_interleave(64 // h, dim)
    student.eval()
    tokens = student(images, mask)
    assert tokens.shape == (2, h * w, student.width)
    torch.testing.assert_close(student(images.masked_fill(pixels, 9.0), mask), tokens)

    teacher = dict(type='mmmaskdistill.PixelTeacher', patch_size=64 // h, img_size=64)
    channels = 3 * (64 // h) ** 2
    model = MaskDistill(
        backbone=dict(
            type='mmmaskdistill.MaskedTimm', model_name=name, img_size=64, fill=fill
        ),
        teacher=teacher,
        normalizer=dict(type='mmmaskdistill.NoNormalizer'),
        head=dict(
            type='mmmaskdistill.LinearHead',
            in_channels=student.width,
            out_channels=channels,
        ),
        loss=dict(type='mmmaskdistill.L1Loss'),
    )
    samples = [DataSample().set_mask(m) for m in mask]
    model.loss(images, samples)['loss'].backward()
    # DistributedDataParallel refuses parameters that get no gradient.
    assert not [k for k, p in model.named_parameters() if p.grad is None]
    depths = [
        model.backbone.get_layer_depth(k, 'backbone.')
        for k, _ in model.named_parameters()
    ]
    assert len({total for _, total in depths}) == 1
    assert {depth for depth, _ in depths} == set(range(depths[0][1]))

    # After pre-training it is a backbone, and mmpretrain's TIMMBackbone loads it.
    student(images)[-1].sum().backward()
    assert not [
        k for k, p in student.named_parameters() if p.requires_grad and p.grad is None
    ]
    size = dict(img_size=64) if 'vit' in name else {}
    backbone = TIMMBackbone(name, **size)
    missing, unused = backbone.load_state_dict(student.state_dict(), strict=False)
    above = ('timm_model.head', 'timm_model.conv_head', 'timm_model.bn2')
    assert not [k for k in missing if not k.startswith(above)]
    assert set(unused) <= {'mask_token'}


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(fill='noise'), "fill='noise': expected 'learned' or 'mean'"),
        (dict(model_name='resnet_nonsense'), "'resnet_nonsense' is not a model"),
    ],
)
def test_masked_timm_refuses_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskedTimm(**{'model_name': 'test_resnet', **wrong})


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
    images, mask = masked()
    expected = teacher.model.forward_features(images)
    if features == 'proj':
        expected = teacher.model.head(expected)
    torch.testing.assert_close(teacher(images), expected)
    torch.testing.assert_close(teacher.attend(images)[0], expected)
    assert not teacher.can_skip

    model = MaskDistill(
        backbone=dict(
            type='mmmaskdistill.AllTokensViT', arch=ARCH, img_size=64, class_token=True
        ),
        teacher=dict(
            type='mmmaskdistill.TimmTeacher',
            model_name='test_vit',
            pretrained='random',
            features=features,
            img_size=64,
            class_token=True,
        ),
        normalizer=dict(type='mmmaskdistill.NoNormalizer'),
        head=dict(
            type='mmmaskdistill.LinearHead',
            in_channels=24,
            out_channels=expected.shape[-1],
        ),
        loss=dict(type='mmmaskdistill.MSELoss'),
    )
    model.init_weights()
    model.eval().teacher.load_state_dict(teacher.state_dict())
    plain = MaskDistillViT(arch=ARCH, img_size=64, out_type='raw').eval()
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
