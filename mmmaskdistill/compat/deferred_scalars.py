"""Read losses and gradient norms from the GPU only when somebody needs the numbers.

mmengine (0.10.7, and onedl-mmengine 0.10.12) turns the norm of the gradients into a
number after every backward pass (``float(grad)`` in ``OptimWrapper._clip_grad``), and
every logged loss after every iteration (``value.item()`` in
``MessageHub.update_scalar``, which ``RuntimeInfoHook`` calls). Each of these makes the
host wait until the GPU has finished everything that is queued, so the GPU then waits
for the host.

Here a ``HistoryBuffer`` keeps copies of such tensors, and turns them into numbers when
its history is read, for example by ``LoggerHook`` at its interval, when a checkpoint
is saved, or by a hook that asks for a loss. Histories, logs and checkpoints are those
of mmengine: a ``HistoryBuffer`` that is read or pickled contains only numbers.

Because the host no longer waits in every iteration, the ``time`` and ``data_time`` of
single iterations show when the host queued the work. Over many iterations their mean
is the time that an iteration takes, as before.
"""

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import OptimWrapper
from torch import Tensor

from .wrapping import wrap

# A buffer that nobody reads is settled after this many values, because each waiting
# tensor occupies memory of the GPU.
MOST_WAITING = 1000


def defer(buffer: HistoryBuffer, value: Tensor, count: int) -> None:
    """Append a value to a history without reading it.

    Args:
        buffer (HistoryBuffer): The history.
        value (Tensor): The value, with one element. It is copied, so it may be
            changed afterwards.
        count (int): Number of samples that the value stands for, see
            ``HistoryBuffer.update``.
    """
    waiting = buffer.__dict__.setdefault('_waiting', [])
    waiting.append((value.detach().clone(), count))
    if len(waiting) >= MOST_WAITING:
        settle(buffer)


def settle(buffer: HistoryBuffer) -> None:
    """Turn all waiting values of a history into numbers, as mmengine would have.

    Args:
        buffer (HistoryBuffer): The history.
    """
    for value, count in buffer.__dict__.pop('_waiting', ()):
        if len(buffer._log_history):
            buffer.update(value.item(), count)
        else:
            # The first value determines the type of the history.
            buffer.__init__([value.item()], [count], buffer.max_length)


def settled(name: str) -> property:
    """Make a property of ``HistoryBuffer`` that settles the history before its use.

    The value stays in the object's ``__dict__`` under the same name, where pickle
    finds it and where objects that were made before have it.

    Args:
        name (str): Name of the attribute.

    Returns:
        property: The property.
    """

    def get(buffer: HistoryBuffer):
        settle(buffer)
        return buffer.__dict__[name]

    def set_(buffer: HistoryBuffer, value: np.ndarray):
        settle(buffer)
        buffer.__dict__[name] = value

    return property(get, set_)


def apply() -> None:
    """Let ``MessageHub`` and ``OptimWrapper`` pass tensors on without reading them."""
    for name in ('_log_history', '_count_history'):
        setattr(HistoryBuffer, name, settled(name))

    @wrap(HistoryBuffer, '__getstate__')
    def settle_and_get_state(get_state: Callable, buffer: HistoryBuffer):
        settle(buffer)
        return get_state(buffer)

    @wrap(MessageHub, 'update_scalar')
    def update_without_reading(
        update: Callable,
        hub: MessageHub,
        key: str,
        value: int | float | Tensor,
        count: int = 1,
        resumed: bool = True,
    ):
        if not (
            isinstance(value, Tensor) and value.numel() == 1 and isinstance(count, int)
        ):
            return update(hub, key, value, count, resumed)
        hub._set_resumed_keys(key, resumed)
        defer(hub._log_scalars.setdefault(key, HistoryBuffer()), value, count)

    @wrap(OptimWrapper, '_clip_grad')
    def clip_without_reading(clip: Callable, optim_wrapper: OptimWrapper):
        clip_func, norms = optim_wrapper.clip_func, []
        # mmengine reads what the function returns, unless it returns nothing.
        with patch.object(
            optim_wrapper,
            'clip_func',
            lambda *args, **kwargs: norms.append(clip_func(*args, **kwargs)),
        ):
            clip(optim_wrapper)
        for norm in norms:
            if norm is not None:
                optim_wrapper.message_hub.update_scalar(
                    f'train/{optim_wrapper.grad_name}', norm
                )
