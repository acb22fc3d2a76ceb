"""An optimizer wrapper for mixed precision in bfloat16 on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmmaskdistill.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Train in mixed precision with bfloat16, also on a CPU.

    The forward pass runs under :class:`torch.autocast`; parameters, gradients and the
    state of the optimizer stay in float32. bfloat16 has the exponents of float32, so
    the loss is not scaled, and no step is skipped or waits for a check of the
    gradients. mmengine's ``AmpOptimWrapper`` scales the loss and needs an accelerator.

    On a CPU, bfloat16 is only fast if the processor computes in it (AVX512-BF16 or
    AMX). Others emulate it, which is slower than float32.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast, on the device of the model.

        Args:
            model (nn.Module): The model that is trained.
        """
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
