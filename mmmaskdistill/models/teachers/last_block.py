"""The last block of timm's ViT, for those tokens that are read."""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..layers import linear, take


def can_skip(block: nn.Module) -> bool:
    """Whether a block is one that :func:`run_at` knows."""
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, 'gate', None) is None
    )


@torch.no_grad()
def run_at(block: nn.Module, x: Tensor, index: Tensor) -> Tensor:
    """``block(x)`` at some tokens; the others are keys and values alone.

    Args:
        block (nn.Module): A frozen one that :func:`can_skip`.
        x (Tensor): [B, L, D].
        index (Tensor): [B, M] int64, of the tokens to compute.

    Returns:
        Tensor: [B, M, D].
    """
    attn = block.attn
    split = [attn.attn_dim, 2 * attn.attn_dim]
    weight = attn.qkv.weight.split(split)
    bias = (None, None) if attn.qkv.bias is None else attn.qkv.bias.split(split)

    def heads(tokens: Tensor) -> Tensor:  # [B, heads, L, d]
        return tokens.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)

    tokens = block.norm1(x)
    q = heads(linear(take(tokens, index), weight[0], bias[0]))
    k, v = map(heads, linear(tokens, weight[1], bias[1]).chunk(2, dim=2))
    y = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
    y = attn.proj(attn.norm(y.transpose(1, 2).flatten(2)))
    y = take(x, index) + block.ls1(y)
    return y + block.ls2(block.mlp(block.norm2(y)))
