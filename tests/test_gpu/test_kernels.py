"""The layers of the ViT, in each precision, against textbook formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmaskdistill.models.layers import Block
from mmmaskdistill.models.layers.attention_kernels import (
    ONLY_ON_CUDA,
    trained_attention,
)
from mmmaskdistill.models.layers.memory_saving import recomputing_linear

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HEADS, WIDTH = 2, 64


def leaf(tensor, device, dtype):
    return tensor.to(device, dtype).requires_grad_()


def textbook_attention(qkv, bias):
    q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=2))
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('tokens', [64, 197])
@pytest.mark.parametrize('way', ['recompute', *ONLY_ON_CUDA])
def test_attention_with_a_bias_equals_the_formula(
    device, way, dtype, tokens, assert_close
):
    """197 tokens are those of the recipes: no multiple of 8, as GPUs like it."""
    if way in ONLY_ON_CUDA and device.type == 'cpu':
        pytest.skip('needs a GPU')
    torch._dynamo.reset()  # FlexAttention would be compiled for any size.
    qkv = leaf(torch.randn(3, tokens, 3 * WIDTH), device, dtype)
    bias = leaf(torch.randn(HEADS, tokens, tokens), device, torch.float32)
    grad = torch.randn(3, tokens, WIDTH).to(device, dtype)
    out = trained_attention([qkv], HEADS, bias, way=way)
    got = torch.autograd.grad(out, (qkv, bias), grad)
    inputs = [leaf(t.detach().cpu(), 'cpu', torch.float64) for t in (qkv, bias)]
    expected = textbook_attention(*inputs)
    wanted = torch.autograd.grad(expected, inputs, grad.cpu().double())
    assert out.dtype == dtype and got[1].dtype == torch.float32
    for name, a, b in zip(
        ('values', 'gradient of q, k and v', 'gradient of the bias'),
        (out, *got),
        (expected, *wanted),
    ):
        assert_close(a, b, dtype, name)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('kind', ['norm', 'gelu'])
def test_linear_layers_equal_the_formula(device, dtype, kind, assert_close):
    x = torch.randn(4, 50, 48)
    linear, norm = nn.Linear(48, 64), nn.LayerNorm(48, eps=1e-6)
    nn.init.normal_(norm.weight)
    gamma = torch.randn(64)
    grad = torch.randn(4, 50, 64)

    def run(device, dtype, function):
        layers = nn.ModuleList([linear, norm]).to(device, dtype)
        inputs = [leaf(x, device, dtype), leaf(gamma, device, dtype)]
        inputs += linear.parameters()
        out = function(*layers, *inputs[:2])
        gradients = torch.autograd.grad(out, inputs, grad.to(out))
        layers.to('cpu', torch.float32)
        return [out, *gradients]

    def ours(linear, norm, x, gamma):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return recomputing_linear(
                x,
                linear.weight,
                linear.bias,
                norm if kind == 'norm' else None,
                kind == 'gelu',
                gamma,
            )

    def formula(linear, norm, x, gamma):
        return gamma * linear(norm(x) if kind == 'norm' else F.gelu(x))

    got = run(device, torch.float32, ours)
    expected = run('cpu', torch.float64, formula)
    names = ('values', 'input', 'scale', 'weight', 'bias')
    for name, a, b in zip(names, got, expected):
        assert a.dtype == torch.float32
        assert_close(a, b, dtype, name)


@pytest.mark.parametrize('table', [True, False], ids=['own table', 'shared bias'])
@pytest.mark.parametrize('queries', [False, True], ids=['all', 'some'])
def test_block_equals_that_of_the_cpu(device, table, queries, assert_close):
    """The indices of some tokens are those of hidden patches in the last block."""
    block = Block(WIDTH, HEADS, 128, table_grid=(7, 7) if table else None)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(3, 50, WIDTH)
    shared = None if table else torch.randn(HEADS, 50, 50)
    index = torch.stack([torch.randperm(50)[:20] for _ in x]) if queries else None

    def run(device, dtype):
        block.to(device, dtype)
        inputs = [leaf(x, device, dtype)]
        if shared is not None:
            inputs.append(leaf(shared, device, dtype))
        out = block(
            inputs[0],
            (7, 7),
            inputs[1] if shared is not None else None,
            None if index is None else index.to(device),
        )
        inputs += block.parameters()
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    for got, expected in zip(run(device, torch.float32), run('cpu', torch.float64)):
        assert_close(got, expected)
