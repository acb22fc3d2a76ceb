import numpy as np
import pytest
import torch
from helpers import tiny
from mmpretrain.datasets import PackInputs
from mmpretrain.structures import DataSample

from mmmaskdistill.datasets.draws import seed_generators
from mmmaskdistill.datasets.masking import GumbelNoise
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import AttentionMask, TimmTeacher


def test_visible_patches_are_drawn_in_proportion_to_attention():
    """A patch's chance to stay visible is proportional to its attention.

    If one of three patches is visible, its frequencies equal the attention.
    """
    attention = torch.tensor([[0.6, 0.3, 0.1]]).expand(20000, -1)
    seed_generators(0)
    draw = GumbelNoise((20000, 3))
    noise = draw({})['noise']
    mask = AttentionMask(2)(attention, noise)
    assert (mask.sum(1) == 2).all()
    # Frequencies differ from it by less than five standard errors.
    assert ((~mask).float().mean(0) - attention[0]).abs().max() < 5 * 0.5 / 20000**0.5
    seed_generators(0)
    assert torch.equal(draw({})['noise'], noise)


def test_timm_teacher_returns_attention_of_its_last_block():
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=64)
    assert teacher.returns_attention
    images = torch.randn(2, 3, 64, 64)
    features, attention = teacher.attend(images)
    torch.testing.assert_close(features, teacher(images))
    blocks = teacher.model.blocks
    x = teacher.model.forward_intermediates(
        images,
        indices=[len(blocks) - 2],
        return_prefix_tokens=True,
        output_fmt='NLC',
        intermediates_only=True,
    )[0]
    x = blocks[-1].norm1(torch.cat([x[1], x[0]], 1))
    layer = blocks[-1].attn
    q, k, _ = layer.qkv(x).unflatten(2, (3, layer.num_heads, -1)).unbind(2)
    weights = torch.einsum('bhd,bnhd->bhn', q[:, 0], k) * layer.scale
    expected = weights.softmax(-1).mean(1)[:, 1:]
    torch.testing.assert_close(attention, expected, rtol=1e-4, atol=1e-5)
    assert layer.fused_attn and not layer.attn_drop._forward_pre_hooks


def build(model_name='test_vit', **kwargs):
    model = tiny.build(
        **{
            'backbone': dict(tiny.STUDENT, type='mmmaskdistill.AllTokensViT'),
            'teacher': dict(
                tiny.TEACHER,
                model_name=model_name,
                resize='bilinear' if 'resnet' in model_name else None,
            ),
            'normalizer': dict(type='mmmaskdistill.L2Normalizer'),
            'head': dict(tiny.LINEAR, out_channels=64 if 'vit' in model_name else 384),
            'loss': dict(type='mmmaskdistill.MSELoss'),
            'masking': dict(type='mmmaskdistill.AttentionMask', num_masking_patches=12),
            **kwargs,
        }
    )
    return model.eval()


def loss(model, **drawn):
    images = torch.randn(2, 3, 64, 64)
    return model.loss(images, [DataSample(**drawn)] * 2)['loss']


def test_mask_distill_hides_the_masked_patches(monkeypatch):
    model = build()
    seen = []
    forward = model.backbone.forward
    monkeypatch.setattr(
        model.backbone,
        'forward',
        lambda *args: (seen.append(args[1]), forward(*args))[1],
    )
    assert loss(model, noise=torch.randn(4, 4)).isfinite()
    assert (seen[0].sum(1) == 12).all()


def test_the_dtype_of_a_mask_does_not_matter():
    """A mask of floating-point numbers is a mask: other values than 0 are hidden."""
    model = build(masking=None)
    mask = torch.arange(16).view(4, 4) % 3
    images = torch.randn(2, 3, 64, 64)
    whole, real = (
        model.loss(images, [DataSample(mask=m)] * 2)['loss'] for m in (mask, 0.5 * mask)
    )
    assert torch.equal(whole, real)


def test_noise_reaches_the_model_through_the_pipeline():
    pack = PackInputs(algorithm_keys=['noise'])
    sample = pack(GumbelNoise((4, 4))(dict(img=np.zeros((64, 64, 3), np.uint8))))
    sample = sample['data_samples']
    assert sample.noise.dtype == torch.float32 and sample.noise.shape == (4, 4)
    assert 'mask' not in sample
    # Tensors move to the device of the model with the data sample.
    assert sample.to('meta').noise.device.type == 'meta'
    assert loss(build(), noise=sample.noise).isfinite()


@pytest.mark.parametrize(
    'name, size',
    [
        ('pit_ti_224', 224),
        ('volo_d1_224', 224),
        ('xcit_nano_12_p16_224', 224),  # attends to channels
        ('cait_xxs24_224', 224),
        ('convit_tiny', 224),
        ('crossvit_tiny_240', 240),
        ('hiera_tiny_224', 224),
        ('test_resnet', 64),
        ('test_vit2', 64),  # has register tokens and no class token
    ],
)
def test_models_without_attention_of_a_class_token_say_so(name, size):
    with torch.device('meta'):
        teacher = TimmTeacher(name, pretrained='random', img_size=size)
    assert teacher.returns_attention is False
    assert teacher.can_skip is (name == 'test_vit2')
    with pytest.raises(ConfigError, match=f'{name} returns no attention'):
        teacher.attend(torch.zeros(1))


@pytest.mark.parametrize('name', ['pit_ti_224', 'volo_d1_224', 'crossvit_tiny_240'])
def test_class_tokens_outside_of_the_blocks_are_refused(name):
    """These models do not say how many tokens come before the patches."""
    with (
        torch.device('meta'),
        pytest.raises(ConfigError, match=f'ViT with a class token.*{name}'),
    ):
        TimmTeacher(name, pretrained='random', class_token=True)


@pytest.mark.parametrize(
    'name',
    [
        'test_vit',
        'beit_base_patch16_224',
        'deit3_small_patch16_224',
        'eva02_tiny_patch14_224',
        'vit_relpos_base_patch16_cls_224',
        'vit_small_patch16_dinov3',
    ],
)
def test_vits_with_a_class_token_return_its_attention(name):
    with torch.device('meta'):
        teacher = TimmTeacher(name, pretrained='random', img_size=224)
        assert teacher.returns_attention is True
        _, attention = teacher.attend(torch.zeros(2, 3, 224, 224))
    h, w = teacher.grid
    assert attention.shape == (2, h * w)


def test_masks_noise_and_grids_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match=r"GumbelNoise.*PackInputs', algorithm_keys=\['noise'\]"
    ):
        loss(build(), mask=torch.ones(4, 4).long())
    with pytest.raises(ConfigError, match='no mask: .*MaskGenerator.*AttentionMask'):
        loss(build(masking=None), noise=torch.randn(4, 4))
    with pytest.raises(ConfigError, match='test_resnet'):
        build(model_name='test_resnet')
    with pytest.raises(
        ConfigError, match='noise of 3 x 3 patches.*has 4 x 4.*of the GumbelNoise'
    ):
        loss(build(), noise=torch.randn(3, 3))
    with pytest.raises(ConfigError, match='num_masking_patches=12'):
        AttentionMask(12)(torch.rand(2, 9), torch.randn(2, 9))
    with pytest.raises(ConfigError, match='=16, but the student .* 4 x 4 patches'):
        build(masking=dict(type='mmmaskdistill.AttentionMask', num_masking_patches=16))


@pytest.mark.parametrize('number', [0, 0.4, '7', True, dict(start=0, end=7)])
def test_numbers_that_an_attention_mask_cannot_hide_are_refused(number):
    with pytest.raises(ConfigError, match='masking.num_masking_patches=.*: expected a'):
        AttentionMask(number)
