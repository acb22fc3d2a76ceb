from .attention_mask import AttentionMask
from .data_preprocessor import TwoViewDataPreprocessor
from .mask_distill import MaskDistill
from .masking import Masking

__all__ = ['AttentionMask', 'MaskDistill', 'Masking', 'TwoViewDataPreprocessor']
