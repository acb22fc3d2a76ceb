from .codebook_head import CodebookHead
from .decoder_head import DecoderHead, PromptDecoderHead
from .head_list import HeadList
from .linear_head import LinearHead
from .mlp_head import MLPHead

__all__ = [
    'CodebookHead',
    'DecoderHead',
    'HeadList',
    'LinearHead',
    'MLPHead',
    'PromptDecoderHead',
]
