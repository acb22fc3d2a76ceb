from .backbones import MaskDistillViT
from .heads import LinearHead
from .losses import SmoothL1Loss
from .normalizers import LayerNormalizer
from .selfsup import MaskDistill, TwoViewDataPreprocessor
from .teachers import CachedTeacher, TimmTeacher

__all__ = [
    'CachedTeacher', 'LayerNormalizer', 'LinearHead', 'MaskDistill',
    'MaskDistillViT', 'SmoothL1Loss', 'TimmTeacher', 'TwoViewDataPreprocessor'
]
