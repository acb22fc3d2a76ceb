import pytest
import torch
from mmpretrain.structures import DataSample

from mmmaskdistill.datasets.draws import seed_generators
from mmmaskdistill.datasets.masking import GumbelNoise
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import AttentionMask, MaskDistill, TimmTeacher


def test_visible_patches_are_drawn_in_proportion_to_attention():
    """A patch's chance to stay visible is proportional to its attention.

    If one of three patches is visible, its frequencies equal the attention.
    """
    attention = torch.tensor([[0.6, 0.3, 0.1]]).expand(20000, -1)
    seed_generators(0)
    draw = GumbelNoise((20000, 3))
    noise = torch.from_numpy(draw({})['mask'])
    mask = AttentionMask(2)(attention, noise)
    assert (mask.sum(1) == 2).all()
    # Frequencies differ from it by less than five standard errors.
    assert ((~mask).float().mean(0) - attention[0]).abs().max() < 5 * 0.5 / 20000**0.5
    seed_generators(0)
    assert torch.equal(torch.from_numpy(draw({})['mask']), noise)


def test_timm_teacher_returns_attention_of_its_last_block():
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=64)
    assert teacher.attends
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
    model = MaskDistill(
        **{
            'backbone': dict(
                type='mmmaskdistill.AllTokensViT',
                arch=dict(
                    embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48
                ),
                img_size=64,
            ),
            'teacher': dict(
                type='mmmaskdistill.TimmTeacher',
                model_name=model_name,
                pretrained='random',
                resize='bilinear' if 'resnet' in model_name else None,
                img_size=64,
            ),
            'normalizer': dict(type='mmmaskdistill.L2Normalizer'),
            'head': dict(
                type='mmmaskdistill.LinearHead',
                in_channels=24,
                out_channels=64 if 'vit' in model_name else 384,
            ),
            'loss': dict(type='mmmaskdistill.MSELoss'),
            'masking': dict(type='mmmaskdistill.AttentionMask', num_masking_patches=12),
            **kwargs,
        }
    )
    model.init_weights()
    return model.eval()


def loss(model, drawn):
    images = torch.randn(2, 3, 64, 64)
    samples = [DataSample().set_mask(drawn)] * 2
    return model.loss(images, samples)['loss']


def test_mask_distill_hides_the_masked_patches(monkeypatch):
    model = build()
    seen = []
    forward = model.backbone.forward
    monkeypatch.setattr(
        model.backbone,
        'forward',
        lambda images, mask: (seen.append(mask), forward(images, mask))[1],
    )
    assert loss(model, torch.randn(4, 4)).isfinite()
    assert (seen[0].sum(1) == 12).all()


def test_masks_noise_and_grids_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match='GumbelNoise'):
        loss(build(), torch.ones(4, 4).long())
    with pytest.raises(ConfigError, match='AttentionMask'):
        loss(build(masking=None), torch.randn(4, 4))
    with pytest.raises(ConfigError, match='test_resnet'):
        build(model_name='test_resnet')
    with pytest.raises(ConfigError, match='masks of 3 x 3 patches.*has 4 x 4'):
        loss(build(), torch.randn(3, 3))
    with pytest.raises(ConfigError, match='num_masking_patches=12'):
        AttentionMask(12)(torch.rand(2, 9), torch.randn(2, 9))
    with pytest.raises(ConfigError, match='=16, but the student .* 4 x 4 patches'):
        build(masking=dict(type='mmmaskdistill.AttentionMask', num_masking_patches=16))
