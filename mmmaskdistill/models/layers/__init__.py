from .attention import Attention, find, take
from .block import Block
from .linear import FrozenLinear, linear
from .memory_saving import biased_attention, recomputing_linear
from .patch_embed import PatchEmbed
from .position_embedding import resize_position_embedding
from .relative_position import (RelativePositionBias, relative_position_bias,
                                resize_relative_position_table, table_length)

__all__ = [
    'Attention', 'Block', 'FrozenLinear', 'PatchEmbed',
    'RelativePositionBias', 'biased_attention', 'find', 'linear',
    'recomputing_linear', 'relative_position_bias',
    'resize_position_embedding', 'resize_relative_position_table',
    'table_length', 'take'
]
