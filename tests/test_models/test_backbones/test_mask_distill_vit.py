import math

import pytest
import torch
from helpers import tiny
from timm.models.beit import Beit

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import load_backbone, read_weights
from mmmaskdistill.models.checkpoints.formats import (
    find_prefixes,
    tensors_under,
    to_our_names,
)
from mmmaskdistill.models.layers import resize_position_embedding

ARCH = dict(tiny.ARCH, num_layers=3)


@pytest.mark.parametrize(
    'source, target', [((14, 14), (32, 32)), ((14, 14), (10, 13)), ((4, 9), (6, 6))]
)
def test_position_embedding_is_resized_by_the_grids(source, target):
    """timm 1.0.23 would not resize the last one: the numbers of patches are equal."""
    given = torch.randn(1, 1 + math.prod(source), 8)
    resized = resize_position_embedding(given, source, target)
    torch.testing.assert_close(resized[:, 0], given[:, 0])
    torch.testing.assert_close(
        resized[:, 1:].mT.unflatten(2, target),
        torch.nn.functional.interpolate(
            given[:, 1:].mT.unflatten(2, source), target, mode='bicubic'
        ),
    )


def randomized(**kwargs):
    vit = MaskDistillViT(**{'arch': ARCH, 'img_size': 64, **kwargs})
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit


def assert_close(output, expected):
    """Compare two tensors to 1e-5 of the largest expected value."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5 * scale)


def assert_same_gradients(vit, outputs, reference_outputs, reference_gradients):
    """Compare gradients of two models' outputs under the same random weights.

    Args:
        vit (MaskDistillViT): The model to check.
        outputs (Sequence[Tensor]): Its outputs.
        reference_outputs (Sequence[Tensor]): The other model's outputs.
        reference_gradients (Callable): Returns the other model's gradients under
            the names of MaskDistillViT's parameters.
    """
    weights = [torch.randn_like(out) for out in outputs]
    for outs in (outputs, reference_outputs):
        sum((o * w).sum() for o, w in zip(outs, weights)).backward()
    expected = reference_gradients()
    compared = set()
    for name, parameter in vit.named_parameters():
        if parameter.grad is not None:
            assert_close(parameter.grad, expected[name])
            compared.add(name)
    assert {n for n in compared if n.startswith('blocks.2.')}
    assert 'patch_embed.proj.weight' in compared


def renamed_gradients(model):
    """Return gradients under the names of MaskDistillViT's parameters.

    The model's parameters must have the same names as in its checkpoints.
    """
    return to_our_names(
        {k: p.grad for k, p in model.named_parameters() if p.grad is not None}, []
    )


@pytest.mark.parametrize('size', [64, (48, 80)])
@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('absolute', [True, False])
@pytest.mark.parametrize('layer_scale', [0.0, 0.1])
def test_features_and_gradients_equal_timms(shared, absolute, layer_scale, size):
    vit = randomized(
        img_size=size,
        use_shared_rel_pos_bias=shared,
        use_rel_pos_bias=not shared,
        use_abs_pos_emb=absolute,
        layer_scale_init_value=layer_scale,
        out_type='raw',
    )
    timm = Beit(
        img_size=size,
        patch_size=16,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        init_values=layer_scale or None,
        use_shared_rel_pos_bias=shared,
        use_rel_pos_bias=not shared,
        use_abs_pos_emb=absolute,
        global_pool='token',
        num_classes=0,
    )
    state = vit.state_dict()
    del state['mask_token']
    # timm names the final norm fc_norm if it comes after pooling.
    head_norm = {k for k in timm.state_dict() if k.startswith('fc_norm')}
    assert not head_norm
    timm.load_state_dict(state, strict=True)

    images = torch.randn(2, 3, *timm.patch_embed.img_size)
    (output,) = vit(images)
    expected = timm.forward_features(images)
    assert_close(output, expected)
    assert_same_gradients(vit, [output], [expected], lambda: renamed_gradients(timm))


def transformers_beit(kind, size, shared, **options):
    transformers = pytest.importorskip('transformers')
    config = transformers.BeitConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=48,
        image_size=size,
        layer_norm_eps=1e-6,
        vocab_size=10,
        drop_path_rate=0.0,
        use_mask_token=True,
        use_relative_position_bias=not shared,
        use_shared_relative_position_bias=shared,
        **options,
    )
    model = getattr(transformers, kind)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def load_transformers(model, folder, **options):
    model.save_pretrained(folder)
    vit = MaskDistillViT(ARCH, **options)
    load_backbone(vit, str(folder / 'model.safetensors'))
    return vit


def gradients_renamed_through_a_file(model, folder):
    """Return gradients under the names of MaskDistillViT's parameters.

    transformers uses other names in its files than in its models, so the gradients
    are written to a file and read back.
    """
    for parameter in model.parameters():
        parameter.data = parameter.grad
    model.save_pretrained(folder)
    state = read_weights(str(folder / 'model.safetensors')).tensors
    return to_our_names(tensors_under(find_prefixes(state)[0], state), [])


@pytest.mark.parametrize('size', [64, 96])
@pytest.mark.parametrize(
    'shared, absolute, layer_scale',
    [(True, False, 0.1), (False, True, 0.1), (True, True, 0.0)],
)
def test_features_and_gradients_equal_those_of_transformers(
    tmp_path, size, shared, absolute, layer_scale
):
    beit = transformers_beit(
        'BeitModel',
        size,
        shared,
        use_absolute_position_embeddings=absolute,
        layer_scale_init_value=layer_scale,
        use_mean_pooling=False,
    )
    vit = load_transformers(
        beit,
        tmp_path,
        img_size=size,
        use_shared_rel_pos_bias=shared,
        use_rel_pos_bias=not shared,
        use_abs_pos_emb=absolute,
        layer_scale_init_value=layer_scale,
        out_type='raw',
    )
    images = torch.randn(2, 3, size, size)
    (output,) = vit(images)
    # A mask that hides nothing gives the mask token a gradient, so that it can be
    # written to the file.
    nothing = torch.zeros(2, (size // 16) ** 2).bool()
    expected = beit(images, nothing).last_hidden_state
    assert_close(output, expected)
    assert_same_gradients(
        vit,
        [output],
        [expected],
        lambda: gradients_renamed_through_a_file(beit, tmp_path),
    )


@pytest.mark.parametrize('size', [64, 96])
@pytest.mark.parametrize('shared', [True, False])
def test_student_equals_that_of_transformers(tmp_path, shared, size):
    """The logits of the hidden patches in masked image modeling are the same."""
    beit = transformers_beit('BeitForMaskedImageModeling', size, shared)
    vit = load_transformers(
        beit,
        tmp_path,
        img_size=size,
        use_shared_rel_pos_bias=shared,
        use_rel_pos_bias=not shared,
    )
    vit.mask_token.requires_grad_()
    images = torch.randn(3, 3, size, size)
    mask = (
        torch.rand(3, (size // 16) ** 2, generator=torch.Generator().manual_seed(0))
        < 0.4
    )
    logits = torch.nn.functional.linear(
        vit(images, mask), beit.lm_head.weight.detach(), beit.lm_head.bias.detach()
    )
    expected = beit(images, mask).logits[mask]
    assert_close(logits, expected)
    assert_same_gradients(
        vit,
        [logits],
        [expected],
        lambda: gradients_renamed_through_a_file(beit, tmp_path),
    )
    assert vit.mask_token.grad.abs().max() > 0


@pytest.mark.parametrize('size', [64, (48, 80)])
@pytest.mark.parametrize('final_norm', [True, False])
def test_backbone_equals_mmsegs(final_norm, size):
    from mmseg.models import BEiT

    beit = BEiT(
        img_size=size,
        embed_dims=24,
        num_layers=3,
        num_heads=3,
        mlp_ratio=2,
        norm_cfg=dict(type='LN', eps=1e-6),
        out_indices=(0, 2),
        final_norm=final_norm,
    )
    for parameter in beit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vit = randomized(
        img_size=size,
        out_indices=(0, 2),
        final_norm=final_norm,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
    )
    vit.load_state_dict(beit.state_dict(), strict=False)
    images = torch.randn(2, 3, *beit.img_size)
    outputs, expected = vit(images), beit(images)
    for output, expected_output in zip(outputs, expected):
        assert_close(output, expected_output)
    assert_same_gradients(vit, outputs, expected, lambda: renamed_gradients(beit))


@pytest.mark.parametrize('size', [64, 96])
@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('out_type', ['avg_featmap', 'featmap', 'cls_token'])
def test_backbone_equals_mmpretrains(out_type, shared, size):
    from mmpretrain.models import BEiTViT

    options = dict(
        img_size=size,
        out_type=out_type,
        out_indices=[1, 2],
        final_norm=out_type != 'avg_featmap',
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
        layer_scale_init_value=0.1 if shared else 0.0,
    )
    beit = BEiTViT(ARCH, **options)
    for parameter in beit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vit = randomized(**options)
    vit.load_state_dict(beit.state_dict(), strict=False)
    images = torch.randn(2, 3, size, size)
    outputs, expected = vit(images), beit(images)
    for output, expected_output in zip(outputs, expected):
        assert_close(output, expected_output)
    assert_same_gradients(vit, outputs, expected, lambda: renamed_gradients(beit))


@pytest.mark.parametrize('shared', [True, False])
def test_student_equals_a_plain_masked_vit(shared):
    """The student returns only the hidden patches' tokens, in batch-major order.

    Tokens and gradients equal those of a plain forward pass of all tokens through
    all blocks.
    """
    vit = randomized(use_shared_rel_pos_bias=shared, use_rel_pos_bias=not shared)
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

    weights = torch.randn(11, 24)

    def gradients(tokens):
        vit.zero_grad()
        (tokens * weights).sum().backward()
        return {n: p.grad.clone() for n, p in vit.named_parameters()}

    student = vit(images, mask)
    assert student.shape == (11, 24)
    expected = plain()
    torch.testing.assert_close(student, expected, rtol=1e-5, atol=1e-5)
    student_gradients, expected_gradients = gradients(student), gradients(expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(
            student_gradients[name],
            gradient,
            rtol=1e-4,
            atol=1e-5 * gradient.abs().max().item(),
        )


def test_pixels_of_hidden_patches_have_no_effect():
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
        randomized()(torch.zeros(1, 3, 64, 64), torch.zeros(1, 9, dtype=torch.bool))


def test_out_types_and_out_indices():
    images = torch.randn(2, 3, 64, 64)
    (raw,) = randomized(out_type='raw')(images)
    vit = randomized(out_type='featmap', out_indices=(0, -1))
    first, last = vit(images)
    assert first.shape == last.shape == (2, 24, 4, 4)

    torch.manual_seed(1)
    raw_vit = randomized(out_type='raw')
    (raw,) = raw_vit(images)
    for out_type in ('featmap', 'cls_token', 'avg_featmap'):
        vit = randomized(out_type=out_type)
        vit.load_state_dict(raw_vit.state_dict(), strict=False)
        (out,) = vit(images)
        expected = dict(
            featmap=raw[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4),
            cls_token=raw[:, 0],
            avg_featmap=None,
        )[out_type]
        if out_type == 'avg_featmap':
            expected = vit.fc_norm(raw[:, 1:].mean(1))
        torch.testing.assert_close(out, expected)


def test_images_of_other_sizes_are_accepted():
    vit = randomized(use_abs_pos_emb=True)
    assert vit(torch.zeros(1, 3, 64, 64))[0].shape == (1, 24, 4, 4)
    assert vit(torch.zeros(1, 3, 70, 100))[0].shape == (1, 24, 5, 7)


def test_activation_checkpointing_keeps_the_gradients():
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


def test_initialization_follows_the_recipe():
    vit = MaskDistillViT('tiny', use_abs_pos_emb=True)
    vit.init_weights()
    for token in (vit.cls_token, vit.mask_token, vit.pos_embed):
        assert 0 < token.abs().max() <= 0.02
    # A normal distribution of standard deviation s that is truncated at +-s has the
    # standard deviation 0.5396 s.
    cut = 0.02 * 0.5396
    for i, block in enumerate(vit.blocks, start=1):
        assert block.attn.qkv.weight.std().item() == pytest.approx(cut, 0.02)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(cut, 0.02)
        for linear in (block.attn.proj, block.mlp.fc2):
            expected = cut / math.sqrt(2 * i)
            assert linear.weight.std().item() == pytest.approx(expected, 0.02)
            assert not linear.bias.any()
        assert (block.gamma_1 == 0.1).all()


def test_layer_depth_of_each_kind_of_parameter():
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
        'fc_norm.bias': 13,
    }
    names = dict(vit.named_parameters())
    for name, depth in depths.items():
        assert name in names
        assert vit.get_layer_depth(f'backbone.{name}', 'backbone.') == (depth, 14)
    assert vit.get_layer_depth('head.blocks.0.weight', 'backbone.') == (13, 14)


def test_frozen_stages_freeze_the_first_blocks_and_tokens():
    vit = MaskDistillViT(ARCH, img_size=64, frozen_stages=2)
    vit.train()
    frozen = {n for n, p in vit.named_parameters() if not p.requires_grad}
    assert {n.split('.')[1] for n in frozen if n.startswith('blocks')} == {'0', '1'}
    assert {'cls_token', 'patch_embed.proj.weight'} <= frozen
    assert not vit.blocks[1].training and vit.blocks[2].training

    whole = MaskDistillViT(
        ARCH,
        img_size=64,
        out_type='avg_featmap',
        use_abs_pos_emb=True,
        frozen_stages=len(vit.blocks),
    ).train()
    assert not any(p.requires_grad for p in whole.parameters())
    assert not any(m.training for m in whole.children())


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(arch='giant'), "arch='giant': expected one of tiny"),
        (dict(arch=dict(embed_dims=48)), r"arch has the keys \['embed_dims'\]"),
        (dict(out_type='map'), "out_type='map'"),
        (dict(out_indices=12), '12 is not one of the 12 blocks'),
        (dict(frozen_stages=13), 'frozen_stages=13'),
        (
            dict(drop_path_rate=1),
            'drop_path_rate=1: expected at least 0 and less than 1',
        ),
        (dict(arch={**ARCH, 'num_heads': 5}), 'num_heads=5 does not divide'),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskDistillViT(**wrong)
