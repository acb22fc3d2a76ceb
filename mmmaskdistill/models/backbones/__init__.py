"""Students for pre-training, which are backbones in downstream tasks."""

from .all_tokens_vit import AllTokensViT
from .mask_distill_vit import MaskDistillViT
from .masked_swin import MaskedSwin
from .masked_timm import MaskedTimm
from .patch_aggregation_vit import PatchAggregationViT
from .student import Student
from .visible_vit import VisibleViT

__all__ = [
    'AllTokensViT',
    'MaskDistillViT',
    'MaskedSwin',
    'MaskedTimm',
    'PatchAggregationViT',
    'Student',
    'VisibleViT',
]
