"""Backbones under torch.jit.trace and torch.export, which need plain operators."""

import importlib

import pytest
import torch
from helpers import tiny
from packaging.version import Version

from mmmaskdistill.models import MaskDistillViT, MaskedSwin, MaskedTimm
from mmmaskdistill.models.layers import memory_saving
from mmmaskdistill.models.layers import relative_position as positions

POSITIONS = dict(
    shared=dict(use_shared_rel_pos_bias=True),
    own=dict(use_rel_pos_bias=True, use_shared_rel_pos_bias=False),
    both=dict(use_rel_pos_bias=True),
    absolute=dict(use_abs_pos_emb=True, use_shared_rel_pos_bias=False),
    none=dict(use_shared_rel_pos_bias=False),
)


def build(kind=MaskDistillViT, **options):
    """A backbone with weights that are not zero, neither in training nor frozen."""
    if kind is MaskDistillViT:
        options = dict(arch=dict(tiny.ARCH, num_layers=1), img_size=64) | options
    model = kind(**options)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def close(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('position', POSITIONS.values(), ids=POSITIONS)
def test_trace_with_and_without_gradients_takes_any_batch(position, monkeypatch):
    linear = importlib.import_module('mmmaskdistill.models.layers.linear')
    monkeypatch.setattr(linear, 'on_amd', lambda: True)
    model = build(**position)
    x = torch.randn(2, 3, 64, 96)  # another grid than that of the tables
    traced = torch.jit.trace(model, x)  # compares two traces, too
    assert 'mkldnn' not in str(traced.inlined_graph)
    for images in (x, torch.randn(3, 3, 64, 96)):
        close(traced(images), model(images))
    traced(x)[0].sum().backward()
    gradient = model.patch_embed.proj.weight.grad.clone()
    model.zero_grad()
    model(x)[0].sum().backward()
    close([gradient], [model.patch_embed.proj.weight.grad])
    with torch.no_grad():
        close(torch.jit.trace(model, x)(x), model(x))


@pytest.mark.skipif(
    Version(torch.__version__) < Version('2.14'),
    reason='symbols are only tested with torch 2.14 and later',
)
@pytest.mark.parametrize('position', ['both', 'absolute'])
def test_one_exported_graph_serves_all_sizes_and_batches(position):
    model = build(**POSITIONS[position])
    height, width = (torch.export.Dim(name, min=2, max=128) for name in 'hw')
    shapes = {0: torch.export.Dim('b', min=1), 2: 16 * height, 3: 16 * width}
    program = torch.export.export(
        model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(shapes,)
    ).module()
    for shape in [(1, 3, 64, 64), (2, 3, 128, 80), (3, 3, 32, 48), (1, 3, 32, 256)]:
        images = torch.randn(shape)
        close(program(images), model(images))


OTHERS = dict(
    swin=(MaskedSwin, dict(tiny.SWIN, img_size=64, out_indices=(2, 3))),
    convnext=(MaskedTimm, dict(model_name='test_convnext', img_size=64)),
    timm_vit=(MaskedTimm, dict(model_name='test_vit', img_size=64)),
)


@pytest.mark.parametrize(('kind', 'options'), OTHERS.values(), ids=OTHERS)
def test_other_students_can_be_traced_at_one_size(kind, options):
    model = build(kind, **options)
    x = torch.randn(2, 3, 64, 64)
    traced = torch.jit.trace(model, x, check_trace=False)
    for images in (x, torch.randn(1, 3, 64, 64)):
        close(traced(images), model(images))


def test_exporting_leaves_nothing_in_the_caches_of_training():
    for function in (positions._cached_index, positions._index_on_cpu):
        function.cache_clear()
    model = build(use_rel_pos_bias=True)
    x = torch.randn(1, 3, 64, 64)
    torch.export.export(model, (x,))
    loss = model(x)[0].sum()  # a tensor of the exporter would fail here
    loss.backward()
    assert type(positions.relative_position_index((4, 4), x.device)) is torch.Tensor


def test_symbolic_index_and_tables_are_those_of_numbers():
    cpu = torch.device('cpu')
    for grid in [(1, 1), (1, 3), (4, 4), (5, 2)]:
        assert torch.equal(
            positions._symbolic_index(grid, cpu),
            positions.relative_position_index(grid, cpu),
        )
    table = torch.randn(positions.table_length((4, 3)), 2)
    for grid in [(4, 3), (2, 7), (9, 1)]:
        expected = positions.resize_relative_position_table(table, (4, 3), grid)
        found = positions._resize_to_symbols(table, (4, 3), grid)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_gradients_no_autograd_function_is_called(monkeypatch):
    model = build(use_rel_pos_bias=True)
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)[0].detach()
    for name in ('_BiasedAttention', '_RecomputingLinear'):
        monkeypatch.delattr(memory_saving, name)
    with torch.no_grad():
        assert torch.equal(model(x)[0], expected)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert (model(x)[0] - expected).abs().max() < 0.2
    with pytest.raises(NameError):
        model(x)
