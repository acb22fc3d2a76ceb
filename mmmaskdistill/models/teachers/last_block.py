"""What the last block of a timm ViT can do besides computing all tokens."""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from timm.models.xcit import XCA
from torch import Tensor, nn

from ..layers import linear, take


def can_skip(block: nn.Module | None) -> bool:
    """Whether :func:`run_at` can compute a block.

    Args:
        block (nn.Module | None): A block of a timm model.

    Returns:
        bool: True for timm's plain ``Block`` with its plain ``Attention`` and
        without an attention gate.
    """
    # The attention of timm before 1.0.28 has no gate.
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, 'gate', None) is None
    )


def returns_attention(block: nn.Module | None) -> bool:
    """Whether the attention weights of a block's tokens can be read.

    Args:
        block (nn.Module | None): A block of a timm model.

    Returns:
        bool: True if the block has an attention layer that passes the weights
        [B, heads, L, L] of its L tokens through a dropout layer as soon as fused
        attention is switched off. XCiT's weights are those of channels.
    """
    # timm's blocks and attention layers have no base class: a CaiT's, for example, has
    # no fused attention, and a ConvMixer's block has no attention at all.
    attn = getattr(block, 'attn', None)
    return (
        hasattr(attn, 'attn_drop')
        and hasattr(attn, 'fused_attn')
        and not isinstance(attn, XCA)
    )


@torch.no_grad()
def run_at(block: nn.Module, x: Tensor, index: Tensor) -> Tensor:
    """Compute the output of a block for some of its tokens.

    The result is ``take(block(x), index)``. The other tokens serve as keys and
    values only, so their queries and their MLP are not computed.

    Args:
        block (nn.Module): A frozen block for which :func:`can_skip` is true.
        x (Tensor): Input tokens [B, L, D] of the block.
        index (Tensor): Indices [B, M] int64 of the tokens to compute.

    Returns:
        Tensor: Output tokens [B, M, D].
    """
    attn = block.attn
    split = [attn.attn_dim, 2 * attn.attn_dim]
    weight = attn.qkv.weight.split(split)
    bias = (None, None) if attn.qkv.bias is None else attn.qkv.bias.split(split)

    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)

    tokens = block.norm1(x)
    q = heads(linear(take(tokens, index), weight[0], bias[0]))  # [B, heads, M, d]
    k, v = map(heads, linear(tokens, weight[1], bias[1]).chunk(2, dim=2))
    y = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
    y = attn.proj(attn.norm(y.transpose(1, 2).flatten(2)))  # [B, M, D]
    y = take(x, index) + block.ls1(y)
    return y + block.ls2(block.mlp(block.norm2(y)))
