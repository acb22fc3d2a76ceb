"""Tensors are fitted to a model without changing it."""

import pytest
import torch
from helpers import tiny
from torch import nn

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT, MaskedSwin, MaskedTimm
from mmmaskdistill.models.checkpoints import fit, load_backbone
from mmmaskdistill.models.checkpoints.fitting import inflate_channels
from mmmaskdistill.models.layers import resize_relative_position_table

ARCH = dict(tiny.ARCH, num_layers=3)
TABLE = 'relative_position_bias_table'


def test_shared_table_is_copied_to_every_block(student, pretrained, downstream):
    vit = downstream(init_cfg=dict(type='Pretrained', checkpoint=pretrained))
    vit.init_weights()
    shared = student.rel_pos_bias.relative_position_bias_table
    for block in vit.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, shared)
    tables = {b.attn.relative_position_bias_table.data_ptr() for b in vit.blocks}
    assert len(tables) == 3
    images = torch.randn(1, 3, 64, 64)
    student.norm = nn.Identity()
    torch.testing.assert_close(vit(images), student(images))


def test_tables_are_resized_to_the_models_patch_grid(student, pretrained, downstream):
    vit = downstream(img_size=(128, 96))
    report = load_backbone(vit, pretrained)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 6)
    )
    assert torch.equal(vit.blocks[2].attn.relative_position_bias_table, expected)
    assert any('resized' in line for line in report)
    assert any('expanded' in line for line in report)


def test_table_for_14_pixel_patches_is_resized_to_512_pixels(tmp_path, downstream):
    """512 pixels have 37 x 37 patches; the last row and column are padded."""
    student = MaskDistillViT(ARCH, patch_size=14)
    torch.save(student.state_dict(), tmp_path / 'a.pth')
    vit = downstream(img_size=512, patch_size=14)
    report = load_backbone(vit, str(tmp_path / 'a.pth'))
    assert (
        'resized 3 relative position tables from the patch grid (16, 16) to (37, 37)'
    ) in report
    with torch.no_grad():
        assert vit(torch.zeros(1, 3, 512, 512))[0].shape == (1, 24, 37, 37)


def test_position_embedding_is_resized():
    vit = MaskDistillViT(ARCH, img_size=64, use_abs_pos_emb=True)
    torch.nn.init.normal_(vit.pos_embed)
    larger = MaskDistillViT(ARCH, img_size=128, use_abs_pos_emb=True)
    larger.load_state_dict(vit.state_dict())
    grid = vit.pos_embed[:, 1:].transpose(1, 2).reshape(1, 24, 4, 4)
    expected = (
        torch.nn.functional.interpolate(grid, (8, 8), mode='bicubic')
        .flatten(2)
        .transpose(1, 2)
    )
    torch.testing.assert_close(larger.pos_embed[:, 1:], expected)
    assert torch.equal(larger.pos_embed[:, 0], vit.pos_embed[:, 0])


def test_patch_grids_that_are_not_square_load_only_unchanged(tmp_path):
    wide = MaskDistillViT(ARCH, img_size=(32, 64), use_abs_pos_emb=True)
    torch.nn.init.normal_(wide.rel_pos_bias.relative_position_bias_table)
    path = str(tmp_path / 'wide.pth')
    torch.save(wide.state_dict(), path)
    same = MaskDistillViT(ARCH, img_size=(32, 64), use_abs_pos_emb=True)
    load_backbone(same, path)
    for key, tensor in same.state_dict().items():
        assert torch.equal(tensor, wide.state_dict()[key])
    other = MaskDistillViT(ARCH, img_size=64)
    with pytest.raises(CheckpointError, match='24 rows, which are.* set img_size'):
        other.load_state_dict(wide.state_dict())
    # Sixteen offsets form a square, but not one that a patch grid has.
    state = {'rel_pos_bias.relative_position_bias_table': torch.zeros(19, 3)}
    with pytest.raises(CheckpointError, match='table has 19 rows, which are those of'):
        other.load_state_dict(state, strict=False)
    state = {'pos_embed': wide.pos_embed}
    other = MaskDistillViT(ARCH, img_size=64, use_abs_pos_emb=True)
    with pytest.raises(CheckpointError, match='pos_embed is for 8 patches'):
        other.load_state_dict(state, strict=False)


def test_fitting_changes_nothing_and_logs_nothing(student, downstream, log):
    model = nn.ModuleDict(dict(backbone=downstream(img_size=128), head=nn.Linear(2, 2)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tensors = {f'backbone.{k}': v for k, v in student.state_dict().items()}
    tensors |= {'head.weight': torch.ones(3, 2), 'head.bias': torch.ones(2)}
    given = dict(tensors)
    fitted, report = fit(model, tensors)
    assert tensors.keys() == given.keys()
    assert all(tensors[key] is given[key] for key in given)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not log()
    assert list(report.misshapen) == ['head.weight']
    assert list(report.unused) == ['backbone.norm.weight', 'backbone.norm.bias']
    assert report.missing == []
    assert fitted.keys() == after.keys() - {'head.weight'}
    # The model's own loading is as it was.
    assert model.load_state_dict(before) == ([], [])
    with pytest.raises(RuntimeError, match='size mismatch for head.weight'):
        model.load_state_dict({**before, 'head.weight': torch.ones(3, 2)})


def test_fitted_tensors_need_no_fitting(student, downstream):
    vit = downstream(img_size=128)
    fitted, report = fit(vit, student.state_dict())
    assert report.notes
    again, report = fit(vit, fitted)
    assert not report.notes
    assert all(again[key] is fitted[key] for key in fitted)


class Renames(nn.Linear):
    """A layer of another library whose older checkpoints have other names."""

    def __init__(self):
        super().__init__(2, 2)
        self.register_load_state_dict_pre_hook(self.rename)

    @staticmethod
    def rename(module, state, prefix, *args):
        state[f'{prefix}weight'] = state.pop(f'{prefix}kernel')[:2]


def test_loading_hooks_of_other_libraries_run_once_when_tensors_are_loaded():
    model = nn.ModuleDict(dict(layer=Renames(), other=nn.Linear(2, 2)))
    tensors = {
        'layer.kernel': torch.ones(5, 2),
        'layer.bias': torch.ones(2),
        'layer.more': torch.ones(1),
        'other.bias': torch.ones(3),
    }
    fitted, report = fit(model, tensors)
    assert report.missing == ['other.weight']
    assert list(report.misshapen) == ['other.bias']
    assert list(report.unused) == ['layer.more']
    assert fitted.keys() == {'layer.kernel', 'layer.bias'}
    model.load_state_dict(fitted, strict=False)
    assert torch.equal(model['layer'].weight, torch.ones(2, 2))


def test_compiled_parts_have_the_same_checkpoints(student, downstream):
    plain, compiled = downstream(), downstream()
    compiled.blocks[1] = torch.compile(compiled.blocks[1])
    name = 'blocks.1._orig_mod.norm1.weight'
    assert name in compiled.state_dict()
    state = {**student.state_dict(), f'blocks.1.attn.{TABLE}': torch.ones(52, 3)}
    fitted, report = fit(compiled, state)
    assert report.missing == []
    assert torch.equal(fitted[name], student.blocks[1].norm1.weight)
    table = fitted[f'blocks.1._orig_mod.attn.{TABLE}']
    assert torch.equal(table, 1 + state[f'rel_pos_bias.{TABLE}'])
    compiled.load_state_dict(fitted, strict=False)
    assert plain.load_state_dict(compiled.state_dict()) == ([], [])
    assert torch.equal(plain.blocks[1].norm1.weight, student.blocks[1].norm1.weight)

    model, parts = nn.Module(), nn.Module()
    model.backbone, parts.backbone = plain, torch.compile(compiled)
    fitted, report = fit(parts, {**model.state_dict(), 'backbone.more': torch.ones(1)})
    assert report.missing == []
    assert list(report.unused) == ['backbone._orig_mod.more']


@pytest.mark.parametrize(
    'key, shape, message',
    [
        ('pos_embed', (5, 48), r'pos_embed .* \(5, 48\): expected 3 dimensions'),
        (f'rel_pos_bias.{TABLE}', (7,), r'table .* \(7,\): expected 2 dimensions'),
        (f'blocks.0.attn.{TABLE}', (12, 3), r'\(12, 3\) and .* expected the same'),
    ],
)
def test_tensors_of_impossible_shapes_are_named(
    student, downstream, key, shape, message
):
    state = {**student.state_dict(), key: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        fit(downstream(use_abs_pos_emb=True), state)


def test_counters_of_batch_norms_may_be_missing():
    student = MaskedTimm('test_resnet', img_size=64)
    state = student.state_dict()
    counters = [key for key in state if key.endswith('num_batches_tracked')]
    assert counters
    fitted, report = fit(student, {k: v for k, v in state.items() if k not in counters})
    assert report.missing == []
    assert report.matched == len(report.wanted) == len(fitted)


@pytest.mark.parametrize('channels', [1, 2, 4, 5, 6, 12])
def test_gray_images_have_the_same_tokens_after_inflation(
    student, pretrained, downstream, channels
):
    """Equal channels give what they gave, however many there are."""
    vit = downstream(
        in_channels=channels,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, inflate=True),
    )
    vit.init_weights()
    gray = torch.randn(2, 1, 64, 64)
    tokens = vit.patch_embed(gray.expand(-1, channels, -1, -1))[0]
    expected = student.patch_embed(gray.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(tokens, expected, atol=2e-3, rtol=1e-4)


def test_channels_take_turns_in_an_inflated_kernel():
    kernel = torch.randn(8, 3, 2, 2)
    r, g, b = kernel.unbind(1)
    for channels, expected in {
        1: [r + g + b],
        2: [r + b, g],
        3: [r, g, b],
        4: [r / 2, g, b, r / 2],
        7: [r / 3, g / 2, b / 2, r / 3, g / 2, b / 2, r / 3],
    }.items():
        found = inflate_channels(kernel, channels)
        torch.testing.assert_close(found, torch.stack(expected, 1))
    # Back to three channels
    torch.testing.assert_close(inflate_channels(inflate_channels(kernel, 6), 3), kernel)


def test_inflation_is_logged_and_only_done_when_asked_for(pretrained, downstream, log):
    cfg = dict(type='Pretrained', checkpoint=pretrained)
    with pytest.raises(CheckpointError) as error:
        downstream(in_channels=4, init_cfg=cfg).init_weights()
    assert str(error.value) == (
        f'{pretrained} does not fit the backbone: 1 tensors of another shape '
        '(patch_embed.proj.weight is (24, 3, 16, 16), not (24, 4, 16, 16)). The '
        'checkpoint is for images of 3 channels, the backbone has in_channels=4: fit '
        "its patch embedding with init_cfg=dict(type='Pretrained', checkpoint=..., "
        'inflate=True) of the backbone, or set in_channels=3'
    )
    downstream(in_channels=4, init_cfg=dict(cfg, inflate=True)).init_weights()
    assert '  inflated patch_embed.proj.weight from 3 to 4 channels' in log()
    # Another width is still refused, and advised on.
    wide = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=48)
    with pytest.raises(CheckpointError, match='set arch and patch_size'):
        downstream(
            arch=wide, in_channels=4, init_cfg=dict(cfg, inflate=True)
        ).init_weights()


@pytest.mark.parametrize(
    'build',
    [
        lambda channels: MaskedTimm('test_resnet', img_size=64, in_channels=channels),
        lambda channels: MaskedTimm('test_vit', img_size=64, in_channels=channels),
        lambda channels: MaskedSwin(**tiny.SWIN, img_size=64, in_channels=channels),
    ],
)
def test_other_students_are_inflated_too(tmp_path, build):
    source, path = build(3), str(tmp_path / 'rgb.pth')
    torch.nn.init.normal_(source.mask_token)
    torch.save(source.state_dict(), path)
    target = build(4)
    load_backbone(target, path, inflate=True)
    gray = torch.randn(2, 1, 64, 64)
    maps = []
    for model, channels in ((source, 3), (target, 4)):
        model.eval()
        maps.append(model(gray.expand(-1, channels, -1, -1))[-1])
    torch.testing.assert_close(*maps, atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match='in_channels=4: fit its patch embedding'):
        load_backbone(build(4), path)
