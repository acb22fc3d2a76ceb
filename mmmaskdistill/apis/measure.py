"""Time, operations and memory of several ways to compute the same."""

import ctypes
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def interleave(
    sides: dict[str, Callable], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Time calls in turn, so that a drifting machine treats them alike.

    Args:
        sides (dict[str, Callable]): What to call, by name.
        repeats (int): Timed calls of each, after one that is not.
        device (torch.device): Where they compute.

    Returns:
        dict[str, list[float]]: Seconds of each call.
    """
    seconds = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            _synchronize(device)
            start = time.perf_counter()
            call()
            _synchronize(device)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def keep_freed_memory() -> bool:
    """Let the process keep the memory it frees, for its next allocation.

    Otherwise glibc gives some of it back to the kernel, by rules that depend
    on all that was allocated before; to touch such memory anew takes a
    virtual machine longer than to compute with it, and which side pays for it
    is a matter of luck.

    Returns:
        bool: Whether the C library is one that can be told.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # of malloc.h
    # In a single arena: after a failed allocation, a thread would turn to
    # another, which keeps no large blocks.
    return bool(
        mallopt(trim_threshold, -1) and mallopt(mmap_max, 0) and mallopt(arena_max, 1)
    )


def return_freed_memory():
    """Give back what :func:`keep_freed_memory` has kept so far."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


@contextmanager
def limited_memory(free: int | None = None) -> Iterator[None]:
    """Let an allocation fail that the machine has no memory for.

    Linux grants it, and ends the process once it is used.

    Args:
        free (int, optional): Bytes that may still be allocated. Defaults to
            None, nine tenths of those that Linux says are available.
    """
    status, memory = Path('/proc/self/status'), Path('/proc/meminfo')
    if not (status.is_file() and memory.is_file()):
        yield
        return
    import resource  # of Unix alone

    (used,) = re.findall(r'VmData:\s+(\d+) kB', status.read_text())
    (available,) = re.findall(r'MemAvailable:\s+(\d+) kB', memory.read_text())
    if free is None:
        free = 1024 * int(available) * 9 // 10
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    most = 1024 * int(used) + free
    if limits[0] != resource.RLIM_INFINITY:
        most = min(most, limits[0])
    resource.setrlimit(resource.RLIMIT_DATA, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch raised it for want of memory, of a GPU or of the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and 'DefaultCPUAllocator' in str(error)
    )


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, first and third quartile."""
    if len(seconds) < 2:
        return dict(median=seconds[0], low=seconds[0], high=seconds[0])
    low, _, high = quantiles(seconds, n=4, method='inclusive')
    return dict(median=median(seconds), low=low, high=high)


def count_flops(call: Callable) -> int:
    """Floating-point operations of the matrix products in a call."""
    with FlopCounterMode(
        display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}
    ) as counter:
        call()
    return counter.get_total_flops()


# torch before 2.15 does not count it.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _attention_flops(q, k, v, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(q, k, v)


def kept_bytes(forward: Callable, parameters: Iterable[nn.Parameter]) -> int:
    """Bytes that a forward call keeps for backward.

    A storage counts once, however many tensors share it; parameters do not
    count.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = forward()  # held, so that no storage is used twice
    del out
    return sum(storages.values())


def peak_bytes(call: Callable, device: torch.device) -> int:
    """Most bytes that torch's allocator gave out during a call.

    Counted are tensors and operators' workspaces, on the CPU too, where the
    allocator reports every block to the profiler. What lay there before the
    call, weights for instance, does not count.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profiler:
        call()
    blocks = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == '[memory]'
    ]
    blocks.sort(key=lambda block: block[0])
    return max(accumulate((size for _, size in blocks), initial=0))


def state_bytes(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> int:
    """Bytes of a model's parameters and buffers and its optimizer's state."""
    tensors = [*model.parameters(), *model.buffers()]
    if optimizer is not None:
        tensors += [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
    return sum(t.numel() * t.element_size() for t in tensors)


def product_rate(
    device: torch.device, dtype: torch.dtype, size: int = 2048, repeats: int = 10
) -> float:
    """Operations a second in a square matrix product, the machine's limit."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = interleave({'product': lambda: a @ a}, repeats, device)
    return 2 * size**3 / min(seconds['product'])


def machine(device: torch.device) -> str:
    """Processor or GPU, threads and torch's version, for people."""
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    else:
        name = f'{_processor()}, {torch.get_num_threads()} threads'
    return f'{name}, torch {torch.__version__}'


def _processor() -> str:
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().split('\n'):
            if line.startswith('model name'):
                return line.split(':')[1].strip()
    return platform.processor() or platform.machine()


def _synchronize(device: torch.device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
