from .attention_mask import AttentionMask
from .data_preprocessor import TwoViewDataPreprocessor
from .mask_distill import MaskDistill

__all__ = ['AttentionMask', 'MaskDistill', 'TwoViewDataPreprocessor']
