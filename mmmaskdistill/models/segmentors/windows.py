"""Overlapping windows: where they lie, and how many a device computes at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

# Windows of a GPU's first batch. It is measured before larger batches are computed.
FIRST_BATCH = 8

Window = TypeVar('Window')


def place_windows(size: int, crop: int, stride: int) -> list[slice]:
    """Place windows along a side; the last one ends at the border.

    Args:
        size (int): Length of the side in pixels.
        crop (int): Length of a window.
        stride (int): Distance between the starts of two windows.

    Returns:
        list[slice]: The windows in order. If the side is shorter than ``crop``, there
        is one window, of the side's length.
    """
    number = max(size - crop + stride - 1, 0) // stride + 1
    ends = (min(k * stride + crop, size) for k in range(number))
    return [slice(max(end - crop, 0), end) for end in ends]


def compute_windows(
    windows: Sequence[Window],
    compute: Callable[[Sequence[Window]], Sequence[Tensor]],
    device: torch.device,
    at_once: int | None = None,
) -> Iterator[tuple[Window, Tensor]]:
    """Compute windows in batches that fit into the memory of the device.

    A batch that a GPU has no memory for is computed again in two halves.

    Args:
        windows (Sequence[Window]): The windows.
        compute (Callable): Takes some of the windows, and returns a result for each.
        device (torch.device): Device that computes.
        at_once (int, optional): Number of windows in a batch. Defaults to None: one on
            the CPU. On a GPU, the first batch has :data:`FIRST_BATCH` windows at most,
            and the next ones have as many as fit into half of the free memory by the
            measure of the batch before.

    Yields:
        tuple[Window, Tensor]: Each window and its result, in order.

    Raises:
        torch.OutOfMemoryError: If there is no memory for a single window.
    """
    free = free_memory(device)
    size = at_once or (1 if free is None else FIRST_BATCH)
    done = 0
    while done < len(windows):
        part = windows[done : done + size]
        more = done + len(part) < len(windows)
        measured = free is not None and at_once is None and more
        if measured:
            start = start_peak(device)
        try:
            results = compute(part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
            results = None
        if results is None:
            # Outside the except block, the error keeps no tensors alive any more.
            torch.cuda.empty_cache()
            size = at_once = len(part) // 2
            continue
        if measured:
            needed = max(read_peak(device) - start, 1) / len(part)
            size = max(1, int(free_memory(device) / 2 / needed))
        yield from zip(part, results)
        del results
        done += len(part)


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a GPU can still allocate.

    Args:
        device (torch.device): The device.

    Returns:
        int | None: Number of bytes, or None if the device is no GPU.
    """
    if device.type != 'cuda':
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def start_peak(device: torch.device) -> int:
    """Start to measure a GPU's peak memory, and return the bytes in use.

    Args:
        device (torch.device): The GPU.
    """
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def read_peak(device: torch.device) -> int:
    """Return the largest number of bytes in use since :func:`start_peak`.

    Args:
        device (torch.device): The GPU.
    """
    return torch.cuda.max_memory_allocated(device)
