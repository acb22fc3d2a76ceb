import os
import platform
import subprocess
import sys

import pytest
import torch
from benchmarks import measure
from torch import nn

CPU = torch.device('cpu')


def test_timed_calls_alternate():
    calls = []
    seconds = measure.interleave(
        dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 3, CPU
    )
    assert calls == ['a', 'b'] * 4  # The first of 4 rounds is not timed.
    assert {name: len(times) for name, times in seconds.items()} == dict(a=3, b=3)


def test_calls_that_ask_the_driver_for_memory_are_timed_again(monkeypatch):
    """On a GPU, where functions share the memory that torch keeps."""
    requests, calls = iter([0, 5, 6, 6, 6, 6, 7, 7, 8, 8, 9]), []
    monkeypatch.setattr(
        torch.cuda, 'memory_stats', lambda device: dict(num_device_alloc=next(requests))
    )
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: calls.append('sync'))
    sides = dict(a=lambda: calls.append('call'))
    seconds = measure.interleave(sides, 2, torch.device('cuda'))
    # The first call is not timed, the second one is repeated once, and the last one is
    # taken after three times, although it was disturbed, too.
    assert calls == ['sync', 'call', 'sync'] * 6
    assert len(seconds['a']) == 2


# Prints the MiB that the process keeps after a tensor of 64 MiB is freed.
RESIDENT_AFTER_FREE = """
import runpy, sys, threading
import torch

def resident():
    with open('/proc/self/status') as file:
        line, = (line for line in file if line.startswith('VmRSS'))
    return int(line.split()[1]) / 1024

measure = runpy.run_path(sys.argv[1])
how = sys.argv[2]
if how != 'default':
    assert measure['keep_freed_memory']()
if how == 'keep after a failure':
    # With several threads, a thread whose allocation failed tries another arena.
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    with measure['limited_memory'](2**20):
        try:
            torch.ones(2**24)
        except RuntimeError as error:
            assert measure['is_out_of_memory'](error)
        else:
            raise AssertionError
before = resident()
torch.ones(2**24)
if how == 'return':
    measure['return_freed_memory']()
print(resident() - before)
"""


@pytest.mark.skipif(
    'glibc' not in platform.libc_ver()
    or {'LD_PRELOAD', 'GLIBC_TUNABLES', 'MALLOC_MMAP_MAX_'} & os.environ.keys(),
    reason="needs glibc's allocator with its default settings",
)
def test_freed_memory_is_kept_until_it_is_returned():
    def resident_after_free(how):
        return float(
            subprocess.run(
                [sys.executable, '-c', RESIDENT_AFTER_FREE, measure.__file__, how],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )

    for how in ('keep', 'keep after a failure'):
        assert resident_after_free(how) > 32  # MiB of the 64 that were freed
    for how in ('return', 'default'):
        assert resident_after_free(how) < 32


@pytest.mark.skipif(
    platform.system() != 'Linux', reason='only Linux reports the available memory'
)
def test_allocations_fail_under_limited_memory():
    # In bytes. The process must not have freed as much before, because freed
    # memory could be used again.
    size = 2**31
    with measure.limited_memory(free=2**20), pytest.raises(RuntimeError) as raised:
        torch.empty(size, dtype=torch.uint8)
    assert measure.is_out_of_memory(raised.value)
    assert not measure.is_out_of_memory(RuntimeError('shapes differ'))
    with measure.limited_memory():
        torch.ones(2**20)
    # Outside of the context the limit is gone.
    torch.empty(size, dtype=torch.uint8)


@pytest.mark.parametrize(
    'error, expected',
    [
        (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), True),
        (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling'), True),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), True),
        (RuntimeError('CUDA error: out of memory\nCUDA kernel errors'), True),
        (RuntimeError('CUDA error: an illegal memory access was encountered'), False),
        (ValueError('out of memory'), False),
    ],
)
def test_errors_of_a_gpu_that_mean_a_lack_of_memory(error, expected):
    assert measure.is_out_of_memory(error) == expected


def test_spread_is_the_median_and_quartiles():
    assert measure.spread([5.0, 1.0, 2.0, 3.0, 4.0]) == dict(median=3, low=2, high=4)
    assert measure.spread([2.0]) == dict(median=2, low=2, high=2)


def test_flops_of_matrix_products_are_counted():
    linear = nn.Linear(6, 5)
    x = torch.randn(4, 6)
    assert measure.count_flops(lambda: linear(x)) == 2 * 4 * 6 * 5
    assert measure.count_flops(lambda: linear(x).sum().backward()) == 2 * 2 * 4 * 6 * 5


@torch.no_grad()
def test_flops_of_attention_are_counted():
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    attend = nn.functional.scaled_dot_product_attention
    assert measure.count_flops(lambda: attend(q, k, k)) == 2 * 3 * 2 * 2 * 5 * 7 * 8


def test_kept_bytes_count_each_storage_once_without_parameters():
    linear = nn.Linear(6, 6, bias=False)
    x = torch.randn(4, 6)

    def forward():
        y = linear(x)
        # Autograd keeps two tensors for this product, which share one storage.
        return y * y.view(4, 6)

    assert measure.kept_bytes(forward, linear.parameters()) == 4 * (x.numel() + 4 * 6)


def test_product_rate_has_a_plausible_magnitude():
    rate = measure.product_rate(CPU, torch.float32, size=256, repeats=2)
    assert 1e8 < rate < 1e14
    assert 'torch' in measure.machine(CPU)


@torch.no_grad()
def test_peak_counts_tensors_alive_at_the_same_time():
    x = torch.ones(1000)
    held = []

    def one_after_the_other():
        for _ in range(3):
            # The new tensor is allocated before the old one is freed.
            held[:] = [x.exp()]

    assert measure.peak_bytes(one_after_the_other, CPU) == 2 * 4000
    held.clear()
    assert (
        measure.peak_bytes(lambda: held.extend([x.exp(), x.exp(), x.exp()]), CPU)
        == 3 * 4000
    )
    assert measure.peak_bytes(held.clear, CPU) == 0


def test_peak_of_a_gpu_is_that_of_the_whole_call(monkeypatch):
    """Sliding windows measure their own peak on the way."""
    use = dict(now=100, peak=900)

    def reset(device):
        use['peak'] = use['now']

    def call():
        for peak in (700, 500):
            use['peak'] = max(use['peak'], peak)
            torch.cuda.reset_peak_memory_stats(None)

    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', reset)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda device: use['now'])
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda device: use['peak'])
    assert measure.peak_bytes(call, torch.device('cuda')) == 600
    assert torch.cuda.reset_peak_memory_stats is reset


def test_state_bytes_count_weights_buffers_and_momentum():
    # Two parameters and two buffers of 10 floats, and one 8-byte counter.
    model = nn.BatchNorm1d(10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    assert measure.state_bytes(model, optimizer) == 4 * 40 + 8
    model(torch.randn(3, 10)).sum().backward()
    optimizer.step()
    assert measure.state_bytes(model, optimizer) == 4 * 60 + 8
