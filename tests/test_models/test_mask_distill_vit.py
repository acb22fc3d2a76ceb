import math

import pytest
import torch
from timm.models.beit import Beit

from mmmaskdistill.models import MaskDistillViT

ARCH = dict(
    embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)


def randomized(**kwargs):
    vit = MaskDistillViT(**{'arch': ARCH, 'img_size': 64, **kwargs})
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit


@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('absolute', [True, False])
@pytest.mark.parametrize('layer_scale', [0., 0.1])
def test_features_and_gradients_are_those_of_timm(shared, absolute,
                                                  layer_scale):
    vit = randomized(
        use_shared_rel_pos_bias=shared,
        use_rel_pos_bias=not shared,
        use_abs_pos_emb=absolute,
        layer_scale_init_value=layer_scale,
        out_type='raw')
    timm = Beit(
        img_size=64,
        patch_size=16,
        embed_dim=48,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        init_values=layer_scale or None,
        use_shared_rel_pos_bias=shared,
        use_rel_pos_bias=not shared,
        use_abs_pos_emb=absolute,
        global_pool='token',
        num_classes=0)
    state = vit.state_dict()
    del state['mask_token']
    # timm calls the final norm fc_norm when it comes after pooling.
    head_norm = {k for k in timm.state_dict() if k.startswith('fc_norm')}
    assert not head_norm
    timm.load_state_dict(state, strict=True)

    images = torch.randn(2, 3, 64, 64)
    ours, = vit(images)
    theirs = timm.forward_features(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    gradients = dict(timm.named_parameters())
    for name, parameter in vit.named_parameters():
        if name != 'mask_token':
            expected = gradients[name].grad
            scale = expected.abs().max().item()
            torch.testing.assert_close(
                parameter.grad, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize('shared', [True, False])
def test_student_computes_what_a_plain_masked_vit_does(shared):
    """Only the hidden patches' tokens come back, in batch-major order, with
    the gradients of the plain computation that has all tokens everywhere."""
    vit = randomized(
        use_shared_rel_pos_bias=shared, use_rel_pos_bias=not shared)
    vit.mask_token.requires_grad_()
    images = torch.randn(3, 3, 64, 64)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, [1, 5, 6]] = mask[1, [0, 15]] = mask[2, 3:9] = True

    def plain():
        x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
        hidden = mask[..., None].float()
        x = x * (1 - hidden) + vit.mask_token * hidden
        x = torch.cat([vit.cls_token.expand(3, -1, -1), x], 1)
        bias = vit.rel_pos_bias((4, 4)) if shared else None
        for block in vit.blocks:
            x = block(x, (4, 4), bias)
        return vit.norm(x)[:, 1:][mask]

    weights = torch.randn(11, 48)

    def gradients(tokens):
        vit.zero_grad()
        (tokens * weights).sum().backward()
        return {n: p.grad.clone() for n, p in vit.named_parameters()}

    student = vit(images, mask)
    assert student.shape == (11, 48)
    expected = plain()
    torch.testing.assert_close(student, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(student), gradients(expected)
    for name in theirs:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-4,
            atol=1e-5 * theirs[name].abs().max().item())


def test_hidden_patches_leave_no_trace():
    vit = randomized()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True
    one, other = torch.randn(2, 1, 3, 64, 64)
    same = one.clone()
    same[..., 16:32, 16:32] = other[..., 16:32, 16:32]  # patch 5
    assert torch.equal(vit(one, mask), vit(same, mask))
    assert not torch.equal(vit(one, mask), vit(other, mask))


def test_mask_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r'\(1, 9\): expected \(1, 16\)'):
        randomized()(
            torch.zeros(1, 3, 64, 64), torch.zeros(1, 9, dtype=torch.bool))


def test_outputs():
    images = torch.randn(2, 3, 64, 64)
    raw, = randomized(out_type='raw')(images)
    vit = randomized(out_type='featmap', out_indices=(0, -1))
    first, last = vit(images)
    assert first.shape == last.shape == (2, 48, 4, 4)

    torch.manual_seed(1)
    raw_vit = randomized(out_type='raw')
    raw, = raw_vit(images)
    for out_type in ('featmap', 'cls_token', 'avg_featmap'):
        vit = randomized(out_type=out_type)
        vit.load_state_dict(raw_vit.state_dict(), strict=False)
        out, = vit(images)
        expected = dict(
            featmap=raw[:, 1:].transpose(1, 2).reshape(2, 48, 4, 4),
            cls_token=raw[:, 0],
            avg_featmap=None)[out_type]
        if out_type == 'avg_featmap':
            expected = vit.fc_norm(raw[:, 1:].mean(1))
        torch.testing.assert_close(out, expected)


def test_any_image_size():
    vit = randomized(use_abs_pos_emb=True)
    assert vit(torch.zeros(1, 3, 64, 64))[0].shape == (1, 48, 4, 4)
    assert vit(torch.zeros(1, 3, 70, 100))[0].shape == (1, 48, 5, 7)


def test_checkpointing_changes_nothing():
    images = torch.randn(2, 3, 64, 64)
    mask = torch.rand(2, 16) < 0.5
    plain = randomized()
    recomputed = MaskDistillViT(ARCH, img_size=64, with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    for vit in (plain, recomputed):
        vit(images, mask).sum().backward()
    for a, b in zip(plain.parameters(), recomputed.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_initialization_is_the_recipe():
    vit = MaskDistillViT('tiny', use_abs_pos_emb=True)
    vit.init_weights()
    for token in (vit.cls_token, vit.mask_token, vit.pos_embed):
        assert 0 < token.abs().max() <= 0.02
    # A normal of deviation s cut at +-s has deviation 0.5396 s.
    cut = 0.02 * 0.5396
    for i, block in enumerate(vit.blocks, start=1):
        assert block.attn.qkv.weight.std().item() == pytest.approx(cut, 0.02)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(cut, 0.02)
        for linear in (block.attn.proj, block.mlp.fc2):
            expected = cut / math.sqrt(2 * i)
            assert linear.weight.std().item() == pytest.approx(expected, 0.02)
            assert not linear.bias.any()
        assert (block.gamma_1 == 0.1).all()


def test_layer_depths():
    vit = MaskDistillViT('tiny', out_type='avg_featmap', use_abs_pos_emb=True)
    depths = {
        'cls_token': 0,
        'mask_token': 0,
        'pos_embed': 0,
        'patch_embed.proj.weight': 0,
        'blocks.0.norm1.weight': 1,
        'blocks.11.gamma_2': 12,
        'rel_pos_bias.relative_position_bias_table': 13,
        'norm.weight': 13,
        'fc_norm.bias': 13
    }
    names = dict(vit.named_parameters())
    for name, depth in depths.items():
        assert name in names
        assert vit.get_layer_depth(f'backbone.{name}', 'backbone.') == (depth,
                                                                        14)
    assert vit.get_layer_depth('head.blocks.0.weight', 'backbone.') == (13, 14)


def test_freezing():
    vit = MaskDistillViT(ARCH, img_size=64, frozen_stages=2)
    vit.train()
    frozen = {n for n, p in vit.named_parameters() if not p.requires_grad}
    assert {n.split('.')[1] for n in frozen if n.startswith('blocks')} == {
        '0', '1'
    }
    assert {'cls_token', 'patch_embed.proj.weight'} <= frozen
    assert not vit.blocks[1].training and vit.blocks[2].training

    whole = MaskDistillViT(
        ARCH, img_size=64, out_type='avg_featmap', use_abs_pos_emb=True,
        frozen_stages=len(vit.blocks)).train()
    assert not any(p.requires_grad for p in whole.parameters())
    assert not any(m.training for m in whole.children())


@pytest.mark.parametrize('wrong, message', [
    (dict(arch='giant'), "arch='giant': expected one of tiny"),
    (dict(arch=dict(embed_dims=48)), r"arch has the keys \['embed_dims'\]"),
    (dict(out_type='map'), "out_type='map'"),
    (dict(out_indices=12), '12 is none of the 12 blocks'),
    (dict(frozen_stages=13), 'frozen_stages=13'),
    (dict(arch={**ARCH, 'num_heads': 5}), 'num_heads=5 does not divide'),
])
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskDistillViT(**wrong)
