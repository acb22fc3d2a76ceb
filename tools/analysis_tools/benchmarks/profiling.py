"""Where the time of this project's pre-training step goes, by groups of operators.

On a GPU, the time of a group is that of the kernels that its operators launch, and the
idle time is what a step takes without the profiler less the time of all kernels: the
GPU then waits for the host. On a CPU, it is the time of the operators themselves. The
attention, its bias and the linear layers of compiled blocks are fused with others, so
compare the groups without --compile. For example:

  python tools/analysis_tools/benchmark.py profile --device cuda --amp --batch 256
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from command_line import fail
from torch import nn

from . import measure, pretrain
from . import sides as common

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

GROUPS = (
    'teacher',
    'attention, forward',
    'attention, backward',
    'bias gradient',
    'linear layers',
    'norms',
    'optimizer',
    'data transfer',
    'other',
)
# Number of steps that are profiled.
STEPS = 3
# What runs under the label that the profiler shows as the teacher's.
TEACHER = 'benchmark: teacher'

PRODUCTS = ('aten::mm', 'aten::addmm', 'aten::bmm', 'aten::baddbmm', 'aten::linear')
# Names of torch's and this project's attention functions, and parts of names that
# contain the gradient of the bias, which is a sum over samples, and of its table.
ATTENTION = ('_BiasedAttention', 'scaled_dot_product', 'ScaledDotProduct', 'flex_')
BIAS_GRADIENT = ('aten::sum', 'aten::add_', 'aten::index_add_', 'aten::zero')
BIAS_NODES = (
    'IndexBackward',
    'IndexSelectBackward',
    'ExpandBackward',
    'ConstantPadNdBackward',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job, which are those of this project's step."""
    pretrain.add_step_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    """Measure the groups and print the table.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine``, ``step_seconds`` (the median without the profiler),
        ``groups`` with the seconds per step of each group, and ``idle_seconds`` per
        step, which is None on a CPU.
    """
    from mmengine.logging import MMLogger
    from prettytable import PrettyTable

    import mmmaskdistill  # noqa: F401

    MMLogger.get_current_instance().setLevel('ERROR')  # keeps the output short
    device = torch.device(args.device)
    measure.keep_freed_memory()
    torch.manual_seed(0)
    side = pretrain.build(args, device)['ours']
    side = common.as_timed(side, args, device)
    seconds = measure.interleave({'ours': side.call}, args.repeats, device)['ours']
    step = measure.spread(seconds)['median']
    _, teacher = side.model
    with labeled(teacher, TEACHER):
        groups = profile(side.call, STEPS, device)
    busy = sum(groups.values())
    if device.type == 'cuda' and not busy:
        fail(
            'the profiler has seen no kernel of the GPU: it needs CUPTI, and the '
            'permission to read the performance counters of the GPU'
        )
    idle = max(0.0, step - busy) if device.type == 'cuda' else None
    table = PrettyTable(['group', 'ms per step', 'share'], align='r')
    rows = dict(groups) if idle is None else dict(groups, idle=idle)
    total = sum(rows.values())
    for name, time in rows.items():
        table.add_row([name, f'{1e3 * time:.2f}', f'{time / total:.1%}'])
    print(table)
    print(f'{measure.machine(device)}; step without the profiler: {1e3 * step:.2f} ms')
    return dict(
        machine=measure.machine(device),
        batch=args.batch,
        step_seconds=step,
        groups=groups,
        idle_seconds=idle,
    )


@contextmanager
def labeled(teacher: nn.Module, label: str) -> Iterator[None]:
    """Show what a teacher computes under a label in the profiler.

    Args:
        teacher (nn.Module): The teacher, whose methods ``at`` and ``forward`` are
            called.
        label (str): The label.

    Yields:
        None: The labels apply inside the ``with`` statement.
    """

    def wrap(method: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            with torch.profiler.record_function(label):
                return method(*args, **kwargs)

        return wrapped

    names = [name for name in ('at', 'forward') if hasattr(teacher, name)]
    for name in names:
        setattr(teacher, name, wrap(getattr(teacher, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(teacher, name)


def profile(call: Callable, steps: int, device: torch.device) -> dict[str, float]:
    """Profile a training step.

    Args:
        call (Callable): The step, called without arguments.
        steps (int): Number of calls.
        device (torch.device): Device of the step.

    Returns:
        dict[str, float]: Seconds per step of each group of :data:`GROUPS`.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            call()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
    return {
        name: microseconds / 1e6 / steps
        for name, microseconds in add_up(
            profiler.events(), on_gpu=device.type == 'cuda'
        ).items()
    }


def add_up(events: Sequence['FunctionEvent'], on_gpu: bool) -> dict[str, float]:
    """Add up the times of all events by their group.

    Args:
        events (Sequence[FunctionEvent]): Events of torch's profiler.
        on_gpu (bool): Whether the time of kernels counts. Otherwise it is that of the
            operators on the CPU, without the operators that they call.

    Returns:
        dict[str, float]: Microseconds of each group, and 0 for a group without events.
        Kernels that the profiler assigns to no operator are in the group ``other``.
    """
    cpu = torch.autograd.DeviceType.CPU
    times, total = Counter(), 0.0
    for event in events:
        if event.device_type != cpu:
            # The label of a range on the host appears as a range on the GPU, too.
            if on_gpu and not event.is_user_annotation:
                total += event.time_range.elapsed_us()
            continue
        if not on_gpu:
            times[group_of(event)] += event.self_cpu_time_total
            continue
        for kernel in event.kernels:
            copies = kernel.name.startswith(('Memcpy HtoD', 'Memcpy DtoH'))
            group = 'data transfer' if copies else group_of(event)
            times[group] += kernel.duration
    if on_gpu:
        times['other'] += max(0.0, total - sum(times.values()))
    return {name: float(times[name]) for name in GROUPS}


def group_of(event: 'FunctionEvent') -> str:
    """Find the group of an operator from its name and those of its callers.

    Args:
        event (FunctionEvent): The operator.

    Returns:
        str: One of :data:`GROUPS`.
    """
    name, names = event.name, []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    path = ' '.join(names)
    if any(n.startswith('Optimizer.') for n in names):
        return 'optimizer'
    if TEACHER in names:
        return 'teacher'
    if any(node in path for node in BIAS_NODES):
        return 'bias gradient'
    if any(part in path for part in ATTENTION):
        if 'Backward' not in path and 'backward' not in path:
            return 'attention, forward'
        gradient = name.startswith(BIAS_GRADIENT) or any(
            n.startswith(BIAS_GRADIENT) for n in names
        )
        return 'bias gradient' if gradient else 'attention, backward'
    if 'layer_norm' in path or 'LayerNorm' in path:
        return 'norms'
    if any(n in PRODUCTS for n in names):
        return 'linear layers'
    return 'other'
