"""The choice between oneDNN and torch's own product, and the results of both."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmmaskdistill.models.layers.linear import linear, takes_onednn, weight_gradient

# `layers.linear` itself is the function, not the module.
MODULE = importlib.import_module('mmmaskdistill.models.layers.linear')

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, '_linear_pointwise'),
    reason='this torch has no oneDNN',
)


@pytest.fixture
def amd(monkeypatch):
    monkeypatch.setattr(MODULE, 'on_amd', lambda: True)


@pytest.fixture(params=[False, True], ids=['another', 'amd'])
def each_processor(request, monkeypatch):
    monkeypatch.setattr(MODULE, 'on_amd', lambda: request.param)


@pytest.mark.parametrize(
    'info, expected',
    [
        ('vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n', True),
        ('vendor_id\t: GenuineIntel\nmodel name\t: Intel Xeon\n', False),
    ],
)
def test_amd_processors_are_recognized_by_their_vendor(
    monkeypatch, tmp_path, info, expected
):
    file = tmp_path / 'cpuinfo'
    file.write_text(info)
    monkeypatch.setattr(MODULE, 'Path', lambda path: file)
    assert MODULE.on_amd.__wrapped__() is expected
    file.unlink()
    monkeypatch.setattr(MODULE.platform, 'processor', lambda: info)
    assert MODULE.on_amd.__wrapped__() is expected


@needs_onednn
def test_only_amd_processors_use_onednn(monkeypatch):
    x, weight = torch.ones(2, 4), torch.ones(3, 4)
    for is_amd in (True, False):
        monkeypatch.setattr(MODULE, 'on_amd', lambda is_amd=is_amd: is_amd)
        assert takes_onednn(x, weight) is is_amd


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_linear_equals_the_exact_product(transposed, bias, each_processor):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 64), torch.randn(48, 64)
    if transposed:
        weight = weight.t().contiguous().t()
    bias = torch.randn(48) if bias else None
    exact = x.double() @ weight.double().t()
    exact = exact if bias is None else exact + bias
    with FlopCounterMode(display=False) as counter:
        out = linear(x, weight, bias)
    assert (out - exact).norm() <= 1e-6 * exact.norm()
    assert counter.get_total_flops() == 2 * 15 * 64 * 48


@pytest.mark.parametrize('width', [32, 96])
def test_weight_gradient_equals_the_exact_product(width, each_processor):
    torch.manual_seed(0)
    grad, x = torch.randn(20, 64), torch.randn(20, width)
    exact = grad.double().t() @ x.double()
    out = weight_gradient(grad, x)
    assert (out - exact).norm() <= 1e-6 * exact.norm()


@needs_onednn
def test_onednn_computes_only_float32_on_cpu(amd):
    x, weight = torch.ones(2, 4), torch.ones(3, 4)
    assert takes_onednn(x, weight)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert not takes_onednn(x.to(dtype), weight.to(dtype))
    assert not takes_onednn(x.to('meta'), weight.to('meta'))
    with torch.autocast('cpu', torch.bfloat16):
        assert not takes_onednn(x, weight)
        assert linear(x, weight).dtype == torch.bfloat16
    assert not takes_onednn(x[:0], weight)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not takes_onednn(x, weight)


@needs_onednn
def test_compiled_graphs_use_torchs_own_product(amd):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph

    layer = nn.Linear(4, 3)
    torch.compile(linear, backend=backend, fullgraph=True)(
        torch.ones(2, 4), layer.weight
    )
    assert 'linear_pointwise' not in graphs[0] and 'linear' in graphs[0]
