"""Find out whether the machine has an accelerator that mmengine can use."""

from mmengine.device import (
    is_cuda_available,
    is_mlu_available,
    is_musa_available,
    is_npu_available,
)


def has_accelerator() -> bool:
    """Tell whether mmengine finds a CUDA, NPU, MLU or MUSA device.

    mmengine asserts the same condition for mixed precision.

    Returns:
        bool: Whether there is such a device.
    """
    return (
        is_cuda_available()
        or is_npu_available()
        or is_mlu_available()
        or is_musa_available()
    )
