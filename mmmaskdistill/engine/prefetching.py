"""Copy the next batch to the GPU while the GPU works on the current one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, is_model_wrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError


def prefetched(batches: Iterable, model: nn.Module) -> Iterator:
    """Yield batches, each of which is copied to the model's GPU one step ahead.

    The copies are made on a CUDA stream of their own, so the host does not wait for
    them and the GPU computes meanwhile. The model's data preprocessor then finds the
    batch on its device. On other devices than CUDA the batches are yielded as they are,
    and none is read ahead.

    Only the copies are made ahead. What the data preprocessor computes, such as Mixup,
    is computed in its own step, so that its random numbers do not change.

    Args:
        batches (Iterable): Batches of a data loader. Copies overlap with the
            computation only if their tensors are in pinned memory.
        model (nn.Module): The model, or a wrapper of it, with a data preprocessor.

    Yields:
        Any: The batches, in the same order.
    """
    if is_model_wrapper(model):
        model = model.module
    preprocessor = model.data_preprocessor
    if preprocessor.device.type != 'cuda':
        yield from batches
        return
    yield from _one_ahead(batches, preprocessor)


def check_prefetch(value: Any, model: nn.Module) -> None:
    """Check the setting ``prefetch`` of a config.

    Args:
        value (Any): Its value.
        model (nn.Module): The model, or a wrapper of it.

    Raises:
        ConfigError: If the value is not True or False, or if the model has no data
            preprocessor that could copy batches.
    """
    if not isinstance(value, bool):
        raise ConfigError(f'prefetch={value!r}: expected True or False')
    if is_model_wrapper(model):
        model = model.module
    preprocessor = getattr(model, 'data_preprocessor', None)
    if value and not isinstance(preprocessor, BaseDataPreprocessor):
        raise ConfigError(
            f'prefetch=True, but {type(model).__name__} has no data preprocessor of '
            'mmengine, which copies the batches: set prefetch=False'
        )


def _one_ahead(batches: Iterable, preprocessor: BaseDataPreprocessor) -> Iterator:
    stream = torch.cuda.Stream(preprocessor.device)
    ready = None
    for batch in batches:
        with torch.cuda.stream(stream):
            batch = _copy(batch, preprocessor)
        if ready is not None:
            # The step on this batch is queued after the copies of the next one.
            yield ready
        current = torch.cuda.current_stream(preprocessor.device)
        current.wait_stream(stream)
        for tensor in _tensors(batch):
            # Its memory must not be used for other tensors of the copying stream
            # before the step has finished.
            tensor.record_stream(current)
        ready = batch
    if ready is not None:
        yield ready


def _copy(batch: Any, preprocessor: BaseDataPreprocessor) -> Any:
    """Copy a batch to the device of a data preprocessor, without waiting for it."""
    waits, preprocessor._non_blocking = preprocessor._non_blocking, True
    try:
        return preprocessor.cast_data(batch)
    finally:
        preprocessor._non_blocking = waits


def _tensors(data: Any) -> Iterator[Tensor]:
    """Yield the tensors on a GPU in nested containers and data samples."""
    if isinstance(data, Tensor):
        if data.is_cuda:
            yield data
    elif isinstance(data, BaseDataElement):
        yield from _tensors(dict(data.all_items()))
    elif isinstance(data, Mapping):
        yield from _tensors(list(data.values()))
    elif isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        for item in data:
            yield from _tensors(item)
