import pytest
import torch
from helpers.fake_gpu import HostStop, StaticShapes
from torch import nn

from mmmaskdistill.models.layers.relative_position import (
    _cached_index,
    relative_position_index,
)


@pytest.fixture
def gpu(fake_gpu):
    with fake_gpu:
        yield fake_gpu


def on_gpu(*size):
    return torch.rand(*size).to('cuda:0', non_blocking=True)


STOPS = dict(
    item=lambda x: x.sum().item(),
    float=lambda x: float(x.sum()),
    bool=lambda x: bool(x.sum() > 0),
    tolist=lambda x: x.tolist(),
    equal=lambda x: torch.equal(x, x),
    cpu=lambda x: x.cpu(),
    copy=lambda x: torch.empty(3, 4).copy_(x),
    nonzero=lambda x: x.nonzero(),
    where=lambda x: torch.where(x > 0),
    index=lambda x: x[x > 0],
    index_rows=lambda x: x[x[:, 0] > 0],
    masked_select=lambda x: x.masked_select(x > 0),
    unique=lambda x: x.unique(),
    assignment=lambda x: x.__setitem__(x > 0, x.sum()),
    put=lambda x: x.index_put((x > 0,), x.sum()),
    devices=lambda x: x + torch.rand(3, 4),
    matmul=lambda x: x @ torch.rand(4, 3),
)


@pytest.mark.parametrize('stop', STOPS.values(), ids=STOPS)
def test_stop_is_found(gpu, stop):
    x = on_gpu(3, 4)
    with pytest.raises(HostStop, match=r'aten\.\S+ .*test_fake_gpu\.py:'):
        stop(x)


NO_STOPS = dict(
    static_index=lambda x: x[torch.tensor([0, 2], device='cuda:0')],
    gather=lambda x: x.gather(1, x.argsort(1)),
    where=lambda x: torch.where(x > 0, x, 0.0),
    masked_fill=lambda x: x.masked_fill(x > 0, 0.0),
    shape=lambda x: x.new_zeros(x.shape[0], x.numel()),
    number=lambda x: x * torch.tensor(2.0),
)


@pytest.mark.parametrize('run', NO_STOPS.values(), ids=NO_STOPS)
def test_static_operators_run(gpu, run):
    assert run(on_gpu(3, 4)).device.type == 'cuda'


def test_host_may_read_its_own_tensors(gpu):
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert x.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert x[x > 0].sum().item() == 3.0
    assert x.nonzero().tolist() == [[0, 0], [1, 1]]


def test_copies_that_wait_are_counted(gpu):
    x = torch.rand(3)
    x.pin_memory().to('cuda:0', non_blocking=True)
    torch.empty(3, device='cuda:0').copy_(x, non_blocking=True)
    assert not gpu.waiting_copies
    x.to('cuda:0')
    torch.empty(3, device='cuda:0').copy_(x)
    torch.tensor([1.0], device='cuda:0')
    assert gpu.waiting_copies.total() == 3
    assert all('test_fake_gpu.py:' in line for line in gpu.waiting_copies)


def test_line_of_the_package_is_reported_and_its_caches_are_emptied(fake_gpu):
    grid = (2, 2)
    real = relative_position_index(grid, torch.device('cpu'))
    with fake_gpu:
        relative_position_index(grid, torch.device('cuda:0'))
    (line,) = fake_gpu.waiting_copies
    assert line.startswith('mmmaskdistill/models/layers/relative_position.py:')
    assert _cached_index.cache_info().currsize == 0
    assert torch.equal(relative_position_index(grid, torch.device('cpu')), real)


def test_model_is_placed_on_the_gpu_and_autocast_reaches_its_products(gpu):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    gpu.place(model)
    assert {t.device.type for t in model.state_dict().values()} == {'cuda'}
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    model(on_gpu(3, 4))
    assert gpu.products == {torch.float32: 1}
    with gpu.autocast(), torch.no_grad():
        assert model[0](on_gpu(3, 4)).dtype == torch.bfloat16
    assert gpu.products == {torch.float32: 1, torch.bfloat16: 1}
    assert not torch.is_autocast_enabled('cuda')


def test_nothing_remains_after_an_error(fake_gpu):
    with pytest.raises(HostStop), fake_gpu as gpu, gpu.autocast():
        on_gpu(3).sum().item()
    assert torch.rand(3).sum().item() > 0
    assert type(torch.zeros(1)) is torch.Tensor
    assert not torch.is_autocast_enabled('cuda')


def test_backward_passes_on_the_cpu_may_not_depend_on_values():
    x = torch.rand(3, 4, requires_grad=True)
    index = torch.tensor([0, 2])
    with StaticShapes():
        x[index].sum().backward()
    y = x[x > 0.5].sum()
    with pytest.raises(HostStop, match='aten.index_put'), StaticShapes():
        y.backward()
    for stop in (torch.Tensor.nonzero, lambda t: t.sum().item(), lambda t: t[t > 0]):
        with pytest.raises(HostStop), StaticShapes():
            stop(x.detach())
