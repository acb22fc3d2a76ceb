"""Layers of the ViT, plain torch modules and functions."""

from .attention import Attention
from .block import Block
from .drop_path import Draw, draw_drop_path
from .frozen import freeze_layers, thaw_layers
from .linear import linear
from .memory_saving import biased_attention, recomputing_linear
from .patch_embed import PatchEmbed
from .position_embedding import resize_position_embedding
from .relative_position import (
    NUM_TOKEN_ROWS,
    RelativePositionBias,
    relative_position_bias,
    resize_relative_position_table,
    table_length,
)
from .tokens import PatchIndex, find, index_patches, select, take

__all__ = [
    'NUM_TOKEN_ROWS',
    'Attention',
    'Block',
    'Draw',
    'PatchEmbed',
    'PatchIndex',
    'RelativePositionBias',
    'biased_attention',
    'draw_drop_path',
    'find',
    'freeze_layers',
    'index_patches',
    'linear',
    'recomputing_linear',
    'relative_position_bias',
    'resize_position_embedding',
    'resize_relative_position_table',
    'select',
    'table_length',
    'take',
    'thaw_layers',
]
