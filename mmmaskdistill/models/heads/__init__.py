from .base import Head
from .codebook_head import CodebookHead
from .decoder_head import DecoderHead, PromptDecoderHead
from .head_list import HeadList
from .linear_head import LinearHead
from .mlp_head import MLPHead

__all__ = [
    'CodebookHead',
    'DecoderHead',
    'Head',
    'HeadList',
    'LinearHead',
    'MLPHead',
    'PromptDecoderHead',
]
