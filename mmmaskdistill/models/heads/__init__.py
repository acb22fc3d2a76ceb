from .codebook_head import CodebookHead
from .decoder_head import DecoderHead, PromptDecoderHead
from .linear_head import LinearHead
from .mlp_head import MLPHead

__all__ = [
    'CodebookHead', 'DecoderHead', 'LinearHead', 'MLPHead', 'PromptDecoderHead'
]
