"""All ways of attention with a learnable bias compute the same values and gradients.

What a CPU cannot run of them is not tested: the memory-efficient kernel itself, of
which the CPU takes torch's plain attention instead, and the kernels of FlexAttention,
of which it computes the definition.
"""

import warnings

import pytest
import torch
from helpers import tiny
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import attention_kernels, biased_attention, choose_way
from mmmaskdistill.models.layers.attention_kernels import (
    Rule,
    aligned,
    efficient_attention,
    flexible_attention,
    trained_attention,
)
from mmmaskdistill.models.layers.memory_saving import gather_gradients

CUDA, CPU = torch.device('cuda', 0), torch.device('cpu')


def inputs(queries, table, samples=3):
    """Make arguments of `trained_attention`: 2 heads, 8 channels, 10 tokens."""
    torch.manual_seed(0)
    shapes = ((samples, 4, 16), (samples, 10, 32)) if queries else ((samples, 10, 48),)
    projected = [torch.randn(shape, requires_grad=True) for shape in shapes]
    rows = torch.stack([torch.randperm(10)[:4] for _ in range(samples)])
    index = torch.randint(7, (10, 10)) if table else None
    bias = torch.randn(7, 2) if table else torch.randn(2, 10, 10)
    return projected, 2, bias.requires_grad_(), rows if queries else None, index


def gradients(out, *wanted):
    torch.manual_seed(1)
    return torch.autograd.grad(out, wanted, torch.randn_like(out))


def defined_attention(q, k, v, score_mod):
    """Compute FlexAttention by its definition, for autograd to differentiate."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    places = torch.meshgrid(*map(torch.arange, scores.shape), indexing='ij')
    return score_mod(scores, *places).softmax(-1) @ v


@pytest.fixture
def plain_flex_attention(monkeypatch):
    monkeypatch.setattr(
        attention_kernels, '_flex_attention', lambda compiled: defined_attention
    )


@pytest.mark.parametrize('table', [False, True])
@pytest.mark.parametrize('queries', [False, True])
@pytest.mark.parametrize('way', [efficient_attention, flexible_attention])
def test_ways_have_the_values_and_gradients_of_the_default(
    way, queries, table, plain_flex_attention
):
    args = projected, _, bias, *_ = inputs(queries, table)
    expected, out = biased_attention(*args), way(*args)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(
        gradients(out, *projected, bias), gradients(expected, *projected, bias)
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('table', [False, True])
@pytest.mark.parametrize('queries', [False, True])
def test_flex_attention_of_torch_computes_the_same_forward_pass(
    queries, table, monkeypatch
):
    """Not compiled, because torch compiles it for the CPU by a C++ compiler."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(
        attention_kernels, '_flex_attention', lambda compiled: flex_attention
    )
    projected, heads, bias, *rest = inputs(queries, table)
    with torch.no_grad():
        detached = [t.detach() for t in projected], heads, bias.detach(), *rest
        out, expected = flexible_attention(*detached), biased_attention(*detached)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('queries, table', [(False, True), (True, False)])
def test_flex_attention_of_torch_has_the_gradients_of_the_default(
    queries, table, monkeypatch
):
    """By torch's definition of its backward pass, which it otherwise refuses on a CPU.

    Drop path skips samples, so the batch of a block has another size in every step.
    """
    from torch.nn.attention import flex_attention as module

    torch._dynamo.reset()
    graphs = CompileCounter()
    compiled = torch.compile(
        module.flex_attention, backend=aot_autograd(fw_compiler=graphs)
    )
    monkeypatch.setattr(module, '_validate_device', lambda *args: None)
    monkeypatch.setattr(attention_kernels, '_flex_attention', lambda _: compiled)
    for samples in (3, 4, 2, 5):
        args = projected, _, bias, *_ = inputs(queries, table, samples)
        expected, out = biased_attention(*args), flexible_attention(*args)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        for got, wanted in zip(
            gradients(out, *projected, bias), gradients(expected, *projected, bias)
        ):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        if samples == 4:
            second = graphs.frame_count
    assert graphs.frame_count == second


@pytest.mark.parametrize('queries, table', [(False, True), (True, False)])
def test_ways_of_cuda_compile_to_one_graph(queries, table):
    """In compiled blocks; the backward pass of FlexAttention cannot run on a CPU."""
    torch._dynamo.reset()
    projected, heads, bias, *rest = args = inputs(queries, table)
    expected = biased_attention(*args)
    options = dict(backend='aot_eager', fullgraph=True)
    out = torch.compile(efficient_attention, **options)(*args)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(
        gradients(out, *projected, bias), gradients(expected, *projected, bias)
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        detached = [t.detach() for t in projected], heads, bias.detach(), *rest
        out = torch.compile(flexible_attention, **options)(*detached)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('tokens', [8, 10, 197])
def test_aligned_bias_has_rows_that_begin_at_multiples_of_eight(tokens):
    bias = torch.randn(2, tokens, tokens, requires_grad=True)
    out = aligned(bias)
    assert torch.equal(out, bias) and (out is bias) == (tokens == 8)
    assert out.stride(-1) == 1 and all(stride % 8 == 0 for stride in out.stride()[:-1])
    (gradient,) = torch.autograd.grad(out, bias, torch.ones_like(out))
    assert torch.equal(gradient, torch.ones_like(bias))


def test_efficient_way_asks_for_the_kernel_alone(monkeypatch):
    """Where the kernel cannot run, torch must not take its plain attention silently."""
    asked = []
    real = attention_kernels.sdpa_kernel

    def record(kernel):
        asked.append(kernel)
        return real(attention_kernels.SDPBackend.MATH)

    monkeypatch.setattr(attention_kernels, 'sdpa_kernel', record)
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    efficient_attention(*inputs(queries=False, table=False))
    assert asked == [attention_kernels.SDPBackend.EFFICIENT_ATTENTION]


def test_gathered_gradient_is_the_sum_over_all_blocks():
    """Also if another use of the bias sends a gradient of its own."""
    projected, heads, bias, *_ = inputs(queries=False, table=False)
    other = [torch.randn_like(projected[0], requires_grad=True)]

    def out(shared):
        first = biased_attention(projected, heads, shared)
        second = biased_attention(other, heads, shared)
        return first.square() + second + shared.mean()

    expected = gradients(out(bias), *projected, *other, bias)
    graph = out(gather_gradients(bias))
    for _ in range(2):  # A graph that is kept collects from zero again.
        torch.manual_seed(1)
        direction = torch.randn_like(graph)
        # A backward pass that leaves the bias out must not count later.
        torch.autograd.grad(graph, projected, direction, retain_graph=True)
        got = torch.autograd.grad(
            graph, (*projected, *other, bias), direction, retain_graph=True
        )
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_gathered_blocks_send_no_gradient_of_their_own():
    projected, heads, bias, *_ = inputs(queries=False, table=False)
    shared, sent = gather_gradients(bias), []
    shared.register_hook(sent.append)
    biased_attention(projected, heads, shared).sum().backward()
    assert sent == [None] and bias.grad.any()


@pytest.mark.parametrize('with_cp', [False, True])
def test_vit_trains_equally_with_gathered_gradients(with_cp):
    found = []
    for attention in ('auto', 'gather'):
        torch.manual_seed(0)
        vit = MaskDistillViT(
            dict(tiny.ARCH, num_layers=4),
            img_size=64,
            attention=attention,
            with_cp=with_cp,
        )
        vit.init_weights()
        images, mask = tiny.masked()
        vit(images, mask).square().sum().backward()
        found.append({n: p.grad for n, p in vit.named_parameters() if p.requires_grad})
    assert found[0]['rel_pos_bias.relative_position_bias_table'].any()
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


def test_first_rule_that_applies_counts(monkeypatch):
    half, single = torch.bfloat16, torch.float32
    monkeypatch.setattr(
        attention_kernels,
        'RULES',
        (
            Rule('flex', (half,), compiled=True),
            Rule('efficient', (half,), tokens=(1, 300)),
            Rule('gather', (half, single), compiled=False, tokens=(200, 300)),
        ),
    )
    assert choose_way(CUDA, half, 1025, compiled=True) == 'flex'
    assert choose_way(CUDA, half, 300) == 'efficient'
    assert choose_way(CUDA, single, 200) == 'gather'
    assert choose_way(CUDA, half, 301) == choose_way(CUDA, single, 199) == 'recompute'
    assert choose_way(CUDA, single, 200, compiled=True) == 'recompute'
    assert choose_way(CPU, half, 197) == 'recompute'


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('compiled', [False, True])
def test_without_a_measurement_nothing_but_recompute_is_the_default(dtype, compiled):
    for tokens in (197, 1025):
        assert choose_way(CUDA, dtype, tokens, compiled) == 'recompute'


@pytest.mark.parametrize('way', ['auto', *attention_kernels.WAYS])
def test_default_of_the_cpu_is_what_it_was(way):
    args = projected, _, bias, *_ = inputs(queries=True, table=True)
    out, expected = trained_attention(*args, way=way), biased_attention(*args)
    assert torch.equal(out, expected)
    for got, wanted in zip(
        gradients(out, *projected, bias), gradients(expected, *projected, bias)
    ):
        assert torch.equal(got, wanted)


def test_vit_follows_a_rule_that_gathers(monkeypatch):
    vit, (images, mask) = MaskDistillViT(tiny.ARCH, img_size=64), tiny.masked()
    asked = []

    def choose(*args):
        asked.append(args)
        return 'gather'

    monkeypatch.setattr(
        'mmmaskdistill.models.backbones.mask_distill_vit.choose_way', choose
    )
    with torch.autocast('cpu', torch.bfloat16):
        tokens = vit(images, mask)
    assert asked == [(CPU, torch.bfloat16, 17, False)]
    names, nodes = set(), [tokens.grad_fn]
    while nodes:
        node = nodes.pop()
        names.add(type(node).__name__)
        nodes += [n for n, _ in node.next_functions if n is not None]
    assert '_GatherGradientsBackward' in names


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(attention='flash'), "'flash': expected auto or one of recompute, gather"),
        (
            dict(attention='flex', use_shared_rel_pos_bias=False),
            "'flex' has no effect without a relative position bias",
        ),
        (
            dict(attention='gather', use_rel_pos_bias=True),
            'no effect where blocks have a relative position table of their own',
        ),
    ],
)
def test_ways_without_effect_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MaskDistillViT(tiny.ARCH, img_size=64, **options)


@pytest.mark.parametrize('way', attention_kernels.ONLY_ON_CUDA)
def test_ways_of_cuda_are_refused_in_training_on_a_cpu(way):
    vit, (images, mask) = (
        MaskDistillViT(tiny.ARCH, img_size=64, attention=way),
        (tiny.masked()),
    )
    with pytest.raises(ConfigError, match=f"{way}'.* needs a CUDA device"):
        vit(images, mask)
    # A trained model can be used anywhere.
    vit.eval()(images, mask)


def test_gathering_leaves_no_trace_in_recorded_models():
    """Exporters do not understand autograd functions."""
    vit = MaskDistillViT(tiny.ARCH, img_size=64, attention='gather').eval()
    images = tiny.masked()[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(vit, images, check_trace=False)
    assert 'PythonOp' not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(images), vit(images), rtol=1e-5, atol=1e-5)


def test_gathering_is_refused_in_compiled_blocks():
    vit, (images, mask) = (
        MaskDistillViT(tiny.ARCH, img_size=64, attention='gather'),
        (tiny.masked()),
    )
    vit.blocks[0].compile(backend='eager')
    with pytest.raises(ConfigError, match='does not work in compiled blocks'):
        vit(images, mask)
