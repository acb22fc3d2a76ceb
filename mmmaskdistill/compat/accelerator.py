"""Is there a device that mmengine's training on GPUs can use?"""

from mmengine.device import (
    is_cuda_available,
    is_mlu_available,
    is_musa_available,
    is_npu_available,
)


def has_accelerator() -> bool:
    """The condition that mmengine itself asserts for mixed precision."""
    return (
        is_cuda_available()
        or is_npu_available()
        or is_mlu_available()
        or is_musa_available()
    )
