"""Measure and compare the time, operations and memory of computations."""

import ctypes
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# A call that is disturbed is timed again, this many times in all, see `interleave`.
TRIES = 3


def interleave(
    sides: dict[str, Callable], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Time several functions by calling them in turn.

    If the machine becomes slower or faster during the measurement, this affects
    all functions alike. On a GPU, a function may find that the memory that torch keeps
    for later allocations was used by another one, and has to give it back to the driver
    and to ask for it again. This takes long, and a training has it only once, so such a
    call is repeated.

    Args:
        sides (dict[str, Callable]): The functions to compare, by name. They are
            called without arguments.
        repeats (int): Number of timed calls of each function. They follow one
            call that is not timed.
        device (torch.device): Device that the functions compute on.

    Returns:
        dict[str, list[float]]: The duration of each timed call in seconds.
    """
    seconds = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            for _ in range(TRIES):
                requests = _driver_requests(device)
                _synchronize(device)
                start = time.perf_counter()
                call()
                _synchronize(device)
                took = time.perf_counter() - start
                if not repeat or _driver_requests(device) == requests:
                    break
            if repeat:
                seconds[name].append(took)
    return seconds


def _driver_requests(device: torch.device) -> int:
    """Return how often torch has asked a GPU's driver for memory or returned some."""
    if device.type != 'cuda':
        return 0
    stats = torch.cuda.memory_stats(device)
    return sum(stats.get(f'num_device_{what}', 0) for what in ('alloc', 'free'))


def keep_freed_memory() -> bool:
    """Let the process keep freed memory and use it for later allocations.

    By default, glibc returns some freed memory to the kernel, by rules that
    depend on all earlier allocations. On a virtual machine, touching such memory
    again takes longer than computing with it, and chance decides which of the
    compared functions pays for that.

    Returns:
        bool: Whether the C library supports this setting.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # Constants of malloc.h.
    # There must be only one arena. With several, a thread whose allocation failed
    # would switch to another arena, and that one does not keep large blocks.
    return bool(
        mallopt(trim_threshold, -1) and mallopt(mmap_max, 0) and mallopt(arena_max, 1)
    )


def return_freed_memory() -> None:
    """Return the memory that :func:`keep_freed_memory` has kept to the kernel.

    Does nothing if the C library does not support it.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


@contextmanager
def limited_memory(free: int | None = None) -> Iterator[None]:
    """Let allocations fail if the machine does not have enough memory for them.

    Without a limit, Linux grants such an allocation and kills the process as
    soon as the process uses the memory. On other systems, this context manager
    does nothing.

    Args:
        free (int, optional): Number of bytes that may still be allocated.
            Defaults to None, which means nine tenths of the memory that Linux
            reports as available.

    Yields:
        None: The limit applies inside the ``with`` statement.
    """
    status, memory = Path('/proc/self/status'), Path('/proc/meminfo')
    if not (status.is_file() and memory.is_file()):
        yield
        return
    import resource  # This module exists only on Unix.

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
    """Tell whether an error of torch means that a GPU or the CPU lacks memory.

    Args:
        error (Exception): The error.

    Returns:
        bool: Whether memory was exhausted.
    """
    # The libraries of CUDA raise errors of their own.
    signs = ('DefaultCPUAllocator', 'CUDA error: out of memory', 'ALLOC_FAILED')
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def spread(seconds: list[float]) -> dict[str, float]:
    """Summarize measured times.

    Args:
        seconds (list[float]): Measured times, at least one.

    Returns:
        dict[str, float]: The ``median``, the first quartile (``low``) and the
        third quartile (``high``).
    """
    if len(seconds) < 2:
        return dict(median=seconds[0], low=seconds[0], high=seconds[0])
    low, _, high = quantiles(seconds, n=4, method='inclusive')
    return dict(median=median(seconds), low=low, high=high)


def count_flops(call: Callable) -> int:
    """Count the floating-point operations of the matrix products in a call.

    Args:
        call (Callable): The function to call, without arguments.

    Returns:
        int: Number of operations, where a multiplication and an addition are
        two.
    """
    with FlopCounterMode(
        display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}
    ) as counter:
        call()
    return counter.get_total_flops()


# Before version 2.15, torch does not count the operations of this function.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _attention_flops(
    q: torch.Size,
    k: torch.Size,
    v: torch.Size,
    *args,
    out_shape: tuple | None = None,
    **kwargs,
) -> int:
    return sdpa_flop_count(q, k, v)


def kept_bytes(forward: Callable, parameters: Iterable[nn.Parameter]) -> int:
    """Measure the activations that a forward pass keeps for the backward pass.

    A storage counts once, even if several tensors share it. Parameters do not
    count.

    Args:
        forward (Callable): The forward pass, called without arguments.
        parameters (Iterable[nn.Parameter]): The parameters that it uses.

    Returns:
        int: Number of bytes.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        # Holding the result keeps all saved tensors alive, so no two storages
        # have the same address.
        out = forward()
    del out
    return sum(storages.values())


def peak_bytes(call: Callable, device: torch.device) -> int:
    """Measure the peak memory that torch allocates during a call.

    Tensors and the workspaces of operators count. On the CPU they are known
    because the allocator reports every block to the profiler. Memory that was
    allocated before the call, such as that of weights, does not count.

    Args:
        call (Callable): The function to call, without arguments.
        device (torch.device): Device that the function computes on.

    Returns:
        int: The largest number of bytes that were allocated at one time.
    """
    if device.type == 'cuda':
        reset, peaks = torch.cuda.reset_peak_memory_stats, []

        def keep(*args) -> None:
            peaks.append(torch.cuda.max_memory_allocated(device))
            reset(*args)

        reset(device)
        before = torch.cuda.memory_allocated(device)
        # Sliding windows measure their own peak to choose the size of their batches.
        with patch.object(torch.cuda, 'reset_peak_memory_stats', keep):
            call()
        return max([*peaks, torch.cuda.max_memory_allocated(device)]) - before
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
    """Measure a model's parameters and buffers and its optimizer's state.

    Args:
        model (nn.Module): The model.
        optimizer (torch.optim.Optimizer, optional): The optimizer whose state
            is included. Defaults to None.

    Returns:
        int: Number of bytes.
    """
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
    device: torch.device,
    dtype: torch.dtype,
    size: int | None = None,
    repeats: int = 10,
) -> float:
    """Measure how fast a device multiplies square matrices.

    This rate is taken as the limit of what the device can compute.

    Args:
        device (torch.device): The device.
        dtype (torch.dtype): Data type of the matrices.
        size (int, optional): Number of rows and columns. Defaults to None, which
            means 2048 on a CPU and 8192 on a GPU, where smaller products do not use
            all of it.
        repeats (int): Number of timed products, of which the fastest counts.
            Defaults to 10.

    Returns:
        float: Floating-point operations per second.
    """
    size = size or (2048 if device.type == 'cpu' else 8192)
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = interleave({'product': lambda: a @ a}, repeats, device)
    return 2 * size**3 / min(seconds['product'])


def machine(device: torch.device) -> str:
    """Describe the machine that measurements were made on.

    Args:
        device (torch.device): Device that was used.

    Returns:
        str: The name of the GPU, or that of the processor with the number of
        threads, and torch's version.
    """
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    else:
        name = f'{processor()}, {torch.get_num_threads()} threads'
    return f'{name}, torch {torch.__version__}'


def processor() -> str:
    """Return the name of the processor."""
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().split('\n'):
            if line.startswith('model name'):
                return line.split(':')[1].strip()
    return platform.processor() or platform.machine()


def _synchronize(device: torch.device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
