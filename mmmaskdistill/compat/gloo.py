"""Let ``torchrun`` start distributed training without an accelerator.

mmengine (0.10.7) calls ``torch.cuda.set_device`` for every backend and passes the
local rank to its model wrapper as the number of the GPU. In addition,
``SyncBatchNorm`` runs only on GPUs. If there is no accelerator, the process group
uses gloo, the wrapper gets no device, and ``SyncBatchNorm`` is replaced by
``BatchNorm``, which is logged as a warning.

The functions must be replaced before ``init_dist`` is called. ``custom_imports`` in a
config is early enough: it takes effect when the file is read, before the runner is
built.
"""

import logging
from collections.abc import Callable
from unittest.mock import patch

import mmengine.dist.utils
import torch
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm

from .accelerator import has_accelerator
from .wrapping import wrap

LAUNCHERS = ('_init_dist_pytorch', '_init_dist_slurm', '_init_dist_mpi')


def apply() -> None:
    """Replace mmengine's launchers and its model wrapper's ``__init__``."""

    def init_with_gloo(init: Callable, backend: str, *args, **kwargs):
        if has_accelerator():
            return init(backend, *args, **kwargs)
        with patch.object(torch.cuda, 'set_device', lambda device: None):
            return init('gloo', *args, **kwargs)

    for launcher in LAUNCHERS:
        wrap(mmengine.dist.utils, launcher)(init_with_gloo)

    @wrap(MMDistributedDataParallel, '__init__')
    def wrap_on_cpu(
        init: Callable,
        self: MMDistributedDataParallel,
        module: torch.nn.Module,
        *args,
        **kwargs,
    ):
        if not has_accelerator():
            kwargs.update(device_ids=None, output_device=None)
            module = _without_sync_batchnorm(module)
        init(self, module, *args, **kwargs)


def _without_sync_batchnorm(module: torch.nn.Module) -> torch.nn.Module:
    count = sum(isinstance(m, torch.nn.SyncBatchNorm) for m in module.modules())
    if count:
        print_log(
            f'no accelerator found: {count} SyncBatchNorm layers become '
            'BatchNorm, so each process normalizes with the statistics of its '
            'own images only',
            logger='current',
            level=logging.WARNING,
        )
        module = revert_sync_batchnorm(module)
    return module
