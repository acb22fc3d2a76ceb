from .data_preprocessor import TwoViewDataPreprocessor
from .mask_distill import MaskDistill

__all__ = ['MaskDistill', 'TwoViewDataPreprocessor']
