"""The memory-saving layers compute the same as plain ones and keep less memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from torch import nn

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import Block, memory_saving, relative_position_bias
from mmmaskdistill.models.layers.memory_saving import (
    biased_attention,
    recomputing_linear,
)


def close(a, b, tolerance=1e-5):
    return (a - b).norm() <= tolerance * b.norm()


def gradients(out, *inputs):
    torch.manual_seed(1)
    return torch.autograd.grad(out, inputs, torch.randn_like(out))


def kept_bytes(function):
    """Count the bytes of storages kept for backward, without parameters."""
    storages = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = function()
    del out
    return sum(storages.values())


def attention_inputs(samples, queries, table):
    """Make arguments of :func:`biased_attention`: 2 heads, 8 channels, 10 tokens."""
    torch.manual_seed(0)
    if queries:
        queries = torch.stack([torch.randperm(10)[:4] for _ in range(samples)])
        shapes = (samples, 4, 16), (samples, 10, 32)
    else:
        queries = None
        shapes = ((samples, 10, 48),)
    projected = [torch.randn(shape, requires_grad=True) for shape in shapes]
    index = torch.randint(7, (10, 10)) if table else None
    bias = torch.randn(7, 2) if table else torch.randn(2, 10, 10)
    return projected, 2, bias.requires_grad_(), queries, index


def plain_attention(projected, heads, bias, queries, index):
    *q, kv = projected
    q, k, v = (
        t.unflatten(2, (heads, -1)).transpose(1, 2)
        for t in (*q, *kv.chunk(2 if q else 3, dim=2))
    )
    if index is not None:
        bias = bias[index].permute(2, 0, 1)
    if queries is not None:
        bias = torch.stack([bias[:, rows] for rows in queries])
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize('table', [False, True])
@pytest.mark.parametrize('queries', [False, True])
@pytest.mark.parametrize('samples', [1, 3])
def test_biased_attention_equals_plain_attention(queries, samples, table):
    args = projected, _, bias, *_ = attention_inputs(samples, queries, table)
    expected = plain_attention(*args)
    out = biased_attention(*args)
    assert close(out, expected)
    for got, wanted in zip(
        gradients(out, *projected, bias), gradients(expected, *projected, bias)
    ):
        assert close(got, wanted)


@pytest.mark.parametrize('queries', [False, True])
@pytest.mark.parametrize(
    'parts',
    [
        [(slice(0, 2), slice(None)), (slice(2, 3), slice(None))],
        [(i, slice(j, j + 1)) for i in range(3) for j in range(2)],
    ],
    ids=['samples', 'heads'],
)
def test_biased_attention_computes_gradients_in_parts(parts, queries, monkeypatch):
    """Backward computes several samples at a time, or some heads of one sample."""
    args = projected, _, bias, *_ = attention_inputs(3, queries, False)
    expected = gradients(biased_attention(*args), *projected, bias)
    monkeypatch.setattr(memory_saving, '_parts', lambda q, k: parts)
    for got, wanted in zip(
        gradients(biased_attention(*args), *projected, bias), expected
    ):
        assert close(got, wanted)


def test_biased_attention_keeps_the_table_instead_of_the_bias():
    *args, index = attention_inputs(3, queries=False, table=True)
    kept = kept_bytes(lambda: biased_attention(*args, index))
    projected, _, table, _ = args
    assert kept == sum(t.nbytes for t in (*projected, table, index))


@pytest.mark.parametrize(
    'shape, number',
    [
        ((64, 3, 65, 1), 2),
        ((2, 12, 197, 1), 2),
        ((2, 12, 1025, 1), 24),
        ((1, 12, 4097, 1), 12),
    ],
)
def test_parts_cover_all_samples_and_heads_once(shape, number):
    q = torch.empty(shape)
    parts = list(memory_saving._parts(q, q))
    assert len(parts) == number
    seen = torch.zeros(shape[:2])
    for part in parts:
        seen[part] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize('norm,gelu', [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize('scale', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_recomputing_linear_equals_plain_layers(norm, gelu, scale, bias):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, requires_grad=True)
    linear = nn.Linear(8, 6, bias=bias)
    layer_norm = nn.LayerNorm(8, eps=1e-6)
    nn.init.normal_(layer_norm.weight)
    gamma = torch.randn(6, requires_grad=True)
    inputs = [x, *linear.parameters()]
    hidden = x
    if norm:
        hidden = layer_norm(x)
        inputs += layer_norm.parameters()
    if gelu:
        hidden = F.gelu(x)
    expected = linear(hidden)
    if scale:
        expected = gamma * expected
        inputs += [gamma]
    out = recomputing_linear(
        x,
        linear.weight,
        linear.bias,
        layer_norm if norm else None,
        gelu,
        gamma if scale else None,
    )
    assert close(out, expected)
    for got, wanted in zip(gradients(out, *inputs), gradients(expected, *inputs)):
        assert close(got, wanted)


def test_autocast_gives_the_dtypes_and_values_of_plain_layers():
    torch.manual_seed(0)
    x = torch.randn(4, 5, 8, requires_grad=True)
    linear, norm = nn.Linear(8, 6), nn.LayerNorm(8)
    gamma = torch.randn(6, requires_grad=True)
    inputs = [x, *linear.parameters(), *norm.parameters(), gamma]
    with torch.autocast('cpu', torch.bfloat16):
        expected = gamma * linear(norm(x))
        out = recomputing_linear(x, linear.weight, linear.bias, norm, scale=gamma)
    assert out.dtype == expected.dtype == torch.float32
    assert torch.equal(out, expected)
    for got, wanted in zip(gradients(out, *inputs), gradients(expected, *inputs)):
        assert got.dtype == torch.float32
        assert close(got, wanted, 2e-2)


def test_float16_gradients_overflow_no_earlier_than_plain_ones():
    """GradScaler can scale the loss by the same factor.

    Gradients are multiplied by the small layer scale before they are rounded to
    float16.
    """
    torch.manual_seed(0)
    x = torch.randn(64, 5, 8, requires_grad=True)
    linear = nn.Linear(8, 6)
    gamma = torch.full((6,), 1e-5, requires_grad=True)
    inputs = [x, *linear.parameters(), gamma]
    with torch.autocast('cpu', torch.float16):
        expected = gamma * linear(x)
        out = recomputing_linear(x, linear.weight, linear.bias, scale=gamma)
    for got, wanted in zip(
        gradients(1e6 * out, *inputs), gradients(1e6 * expected, *inputs)
    ):
        assert wanted.isfinite().all() and close(got, wanted, 1e-2)


@pytest.mark.parametrize('weight, bias', [(False, False), (True, False)])
def test_recomputing_linear_takes_norms_without_weight_or_bias(weight, bias):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, requires_grad=True)
    linear = nn.Linear(8, 6)
    norm = nn.LayerNorm(8, elementwise_affine=weight, bias=bias)
    inputs = [x, *linear.parameters(), *norm.parameters()]
    out = recomputing_linear(x, linear.weight, linear.bias, norm)
    expected = linear(norm(x))
    for got, wanted in zip(
        (out, *gradients(out, *inputs)), (expected, *gradients(expected, *inputs))
    ):
        assert close(got, wanted)


@pytest.mark.parametrize('of', ['norm', 'linear', 'scale'])
def test_frozen_parameters_get_no_gradient(of):
    """Frozen parameters get no gradient; those of the others do not change."""
    torch.manual_seed(0)
    parts = dict(linear=nn.Linear(8, 6), norm=nn.LayerNorm(8))
    parts['scale'] = nn.ParameterList([torch.randn(6)])

    def differentiate():
        x = torch.ones(1, 1, 8).cumsum(2).requires_grad_()
        linear, norm, scale = parts['linear'], parts['norm'], parts['scale'][0]
        recomputing_linear(
            x, linear.weight, linear.bias, norm, scale=scale
        ).square().sum().backward()
        inputs = [x, *(p for m in parts.values() for p in m.parameters())]
        return [p.grad for p in inputs]

    everything = differentiate()
    for part in parts.values():
        part.zero_grad()
    frozen = {id(p) for p in parts[of].requires_grad_(False).parameters()}
    inputs = [None, *(p for m in parts.values() for p in m.parameters())]
    for parameter, got, wanted in zip(inputs, differentiate(), everything):
        assert got is None if id(parameter) in frozen else torch.equal(got, wanted)


@pytest.mark.parametrize('samples, mask', [(2, 0), (0, 0), (0, 1)])
def test_batches_without_samples_or_hidden_patches(samples, mask):
    vit = MaskDistillViT(
        tiny.ARCH,
        img_size=32,
    )
    hidden = vit(torch.randn(samples, 3, 32, 32), torch.full((samples, 4), bool(mask)))
    assert hidden.shape == (0, 24)
    hidden.sum().backward()
    assert not any(p.grad.any() for p in vit.parameters() if p.grad is not None)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_activation_checkpointing_keeps_the_gradients(dtype):
    """This also holds with drop path, under autocast, for a scaled loss."""
    vit = MaskDistillViT(
        dict(tiny.ARCH, num_layers=3),
        img_size=32,
        drop_path_rate=0.5,
        use_rel_pos_bias=True,
    )
    vit.init_weights()
    images, mask = torch.randn(4, 3, 32, 32), torch.rand(4, 4) < 0.5
    found = []
    for vit.with_cp in (False, True):
        vit.zero_grad()
        np.random.seed(0)
        with torch.autocast('cpu', dtype):
            loss = vit(images, mask).square().mean()
        torch.amp.GradScaler('cpu').scale(loss).backward()
        found.append([p.grad.clone() for p in vit.parameters() if p.grad is not None])
    assert all(g.isfinite().all() for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize('scale', [0.0, 0.1])
def test_tokens_stay_in_single_precision_under_autocast(scale):
    vit = MaskDistillViT(
        tiny.ARCH,
        img_size=32,
        layer_scale_init_value=scale,
        out_type='raw',
    )
    with torch.autocast('cpu', torch.bfloat16):
        (tokens,) = vit(torch.randn(1, 3, 32, 32))
        hidden = vit(torch.randn(1, 3, 32, 32), torch.ones(1, 4).bool())
    assert tokens.dtype == hidden.dtype == torch.float32


def test_block_keeps_ten_tensors_of_tokens():
    """A block keeps ten tensors of the size of its tokens.

    They are its input, q, k and v, the output of attention, the tokens between the
    two branches, and four for the hidden layer of the MLP.
    """
    block = Block(64, 2, 256)
    x = torch.randn(2, 17, 64, requires_grad=True)
    bias = nn.Parameter(torch.randn(2, 17, 17))
    maps = kept_bytes(lambda: block(x, (4, 4), bias)) / (4 * x.numel())
    assert maps == pytest.approx(10, abs=0.2)


def test_block_with_its_own_table_keeps_only_an_index_more():
    """All blocks share this index.

    A bias [heads, N, N] would instead be kept once for every block.
    """
    tokens = 1 + 16
    own, shared = Block(64, 4, 256, table_grid=(4, 4)), Block(64, 4, 256)
    x = torch.randn(2, tokens, 64, requires_grad=True)
    bias = nn.Parameter(torch.randn(4, tokens, tokens))
    kept = kept_bytes(lambda: own(x, (4, 4)))
    assert kept - kept_bytes(lambda: shared(x, (4, 4), bias)) == 8 * tokens**2


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('grid', [(2, 3), (4, 4)])
def test_block_with_its_own_table_equals_plain_layers(shared, grid):
    """A block's own table works with autocast.

    It also works together with a shared bias, and at another patch grid than the
    table's.
    """
    torch.manual_seed(0)
    block = Block(32, 4, 64, table_grid=(4, 4), layer_scale_init_value=1.0)
    table = block.attn.relative_position_bias_table
    nn.init.normal_(table)
    tokens = 1 + grid[0] * grid[1]
    x = torch.randn(2, tokens, 32, requires_grad=True)
    bias = torch.randn(4, tokens, tokens, requires_grad=True)
    inputs = [x, table, *([bias] if shared else [])]
    attn = block.attn

    def plain():
        own = relative_position_bias(table, (4, 4), grid)
        q, k, v = (
            block.norm1(x)
            .matmul(attn.qkv.weight.t())
            .unflatten(2, (3, 4, 8))
            .permute(2, 0, 3, 1, 4)
        )
        weights = q @ k.mT / 8**0.5 + (own + bias if shared else own)
        y = (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = x + attn.proj(y)
        return y + block.mlp(block.norm2(y))

    expected = plain()
    wanted = gradients(expected, *inputs)
    out = block(x, grid, bias if shared else None)
    assert close(out, expected)
    for got, gradient in zip(gradients(out, *inputs), wanted):
        assert close(got, gradient)
    with torch.autocast('cpu', torch.bfloat16):
        out = block(x, grid, bias if shared else None)
    assert close(out, expected, 2e-2)
    for got, gradient in zip(gradients(out, *inputs), wanted):
        assert got.dtype == torch.float32 and close(got, gradient, 4e-2)
