"""Layers of the ViT, plain torch modules and functions."""

from .attention import Attention
from .attention_kernels import (
    ONLY_ON_CUDA,
    WAYS,
    choose_way,
    trained_attention,
)
from .block import Block
from .drop_path import Draw, draw_drop_path
from .frozen import freeze_layers, thaw_layers
from .linear import linear
from .memory_saving import biased_attention, gather_gradients, recomputing_linear
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
    'ONLY_ON_CUDA',
    'WAYS',
    'Attention',
    'Block',
    'Draw',
    'PatchEmbed',
    'PatchIndex',
    'RelativePositionBias',
    'biased_attention',
    'choose_way',
    'draw_drop_path',
    'find',
    'freeze_layers',
    'gather_gradients',
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
    'trained_attention',
]
