"""``torchrun`` on a machine without an accelerator.

mmengine (0.10.7) calls ``torch.cuda.set_device`` whatever the backend, and
gives its model wrapper the local rank as GPU number; a ``SyncBatchNorm`` runs
on GPUs only. Without an accelerator the process group is gloo's, the wrapper
gets no device, and SyncBN becomes BN, which the log says.

``init_dist`` must find this in place. In a config, ``custom_imports`` does it:
it acts when the file is read, before the Runner is built.
"""

import logging
from unittest.mock import patch

import mmengine.dist.utils
import torch
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm

from .accelerator import has_accelerator
from .wrapping import wrap

LAUNCHERS = ('_init_dist_pytorch', '_init_dist_slurm', '_init_dist_mpi')


def apply() -> None:

    def init_with_gloo(init, backend, *args, **kwargs):
        if has_accelerator():
            return init(backend, *args, **kwargs)
        with patch.object(torch.cuda, 'set_device', lambda device: None):
            return init('gloo', *args, **kwargs)

    for launcher in LAUNCHERS:
        wrap(mmengine.dist.utils, launcher)(init_with_gloo)

    @wrap(MMDistributedDataParallel, '__init__')
    def wrap_on_cpu(init, self, module, *args, **kwargs):
        if not has_accelerator():
            kwargs.update(device_ids=None, output_device=None)
            module = _without_sync_batchnorm(module)
        init(self, module, *args, **kwargs)


def _without_sync_batchnorm(module: torch.nn.Module) -> torch.nn.Module:
    count = sum(isinstance(m, torch.nn.SyncBatchNorm) for m in module.modules())
    if count:
        print_log(
            f'no accelerator found: {count} SyncBatchNorm layers become '
            'BatchNorm, so each process normalizes by its own images',
            logger='current',
            level=logging.WARNING,
        )
        module = revert_sync_batchnorm(module)
    return module
