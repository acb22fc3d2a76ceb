"""The names that published checkpoints give to the parts of a ViT.

Ours are BEiT's own, which BEiT v2, timm's Beit and both public
re-implementations of MaskDistill use too; MAE and timm's ViT differ by a bias
of the keys. A table says what others call the same: ``*`` is a block's number,
an entry stands for all that begins with it, the first that fits counts.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

# mmpretrain's BEiTViT, MAEViT and VisionTransformer, mmseg's BEiT and MAE
OPENMMLAB = {
    'patch_embed.projection': 'patch_embed.proj',
    'layers.*.ln1': 'blocks.*.norm1',
    'layers.*.ln2': 'blocks.*.norm2',
    'layers.*.ffn.layers.0.0': 'blocks.*.mlp.fc1',
    'layers.*.ffn.layers.1': 'blocks.*.mlp.fc2',
    'layers.*': 'blocks.*',
    'ln1': 'norm',
    'ln2': 'fc_norm',
}
# transformers' BEiT, as its files have it
TRANSFORMERS = {
    'embeddings.cls_token': 'cls_token',
    'embeddings.mask_token': 'mask_token',
    'embeddings.position_embeddings': 'pos_embed',
    'embeddings.patch_embeddings.projection': 'patch_embed.proj',
    'encoder.relative_position_bias': 'rel_pos_bias',
    'encoder.layer.*.layernorm_before': 'blocks.*.norm1',
    'encoder.layer.*.layernorm_after': 'blocks.*.norm2',
    'encoder.layer.*.lambda_1': 'blocks.*.gamma_1',
    'encoder.layer.*.lambda_2': 'blocks.*.gamma_2',
    'encoder.layer.*.attention.attention.query.bias': 'blocks.*.attn.q_bias',
    'encoder.layer.*.attention.attention.value.bias': 'blocks.*.attn.v_bias',
    'encoder.layer.*.attention.attention.query': 'blocks.*.attn.query',
    'encoder.layer.*.attention.attention.key': 'blocks.*.attn.key',
    'encoder.layer.*.attention.attention.value': 'blocks.*.attn.value',
    'encoder.layer.*.attention.output.dense': 'blocks.*.attn.proj',
    'encoder.layer.*.attention.attention.relative_position_bias': 'blocks.*.attn',
    'encoder.layer.*.intermediate.dense': 'blocks.*.mlp.fc1',
    'encoder.layer.*.output.dense': 'blocks.*.mlp.fc2',
    'layernorm': 'norm',
    'pooler.layernorm': 'fc_norm',
}


class Format(NamedTuple):
    """Names of one family of checkpoints.

    Attributes:
        name (str): Whose they are.
        landmark (str): Name of the patch embedding's weight; every ViT has
            one, and what stands before it is the ViT's prefix.
        names (dict[str, str]): Their names and ours.
    """

    name: str
    landmark: str
    names: dict[str, str]


FORMATS = (
    Format('BEiT', 'patch_embed.proj.weight', {}),
    Format('OpenMMLab', 'patch_embed.projection.weight', OPENMMLAB),
    Format(
        'transformers', 'embeddings.patch_embeddings.projection.weight', TRANSFORMERS
    ),
)
# Modules that hold a ViT beside the one that learns: a teacher, the
# tokenizer of BEiT v2 in mmpretrain.
TEACHERS = ('teacher', 'target_generator')

# Parts beside the backbone, and what they were for.
OTHER_PARTS = {
    'norm': 'the backbone has final_norm=False',
    'fc_norm': "of pooled patches: the backbone has no out_type='avg_featmap'",
    'head': 'classifier',
    'classifier': 'classifier',
    'lm_head': "predicts BEiT's visual tokens",
    'cls_pt_layers': "BEiT v2's blocks for the class token in pre-training",
    'fpn': 'resizes taps; segmentors here have a neck for it',
    'decoder': "MAE's decoder",
}


def rename(key: str, names: dict[str, str]) -> str:
    """Our name of a tensor, or the other way round with a turned table."""
    number = re.search(r'\.(\d+)\.', key)
    if number:
        key = f'{key[: number.start()]}.*.{key[number.end() :]}'
    for theirs, ours in names.items():
        if key == theirs or key.startswith(f'{theirs}.'):
            key = ours + key[len(theirs) :]
            break
    return key.replace('*', number[1]) if number else key


def find_format(state: StateDict) -> Format | None:
    """Whose names the tensors of a ViT have, keys without prefix."""
    for form in FORMATS:
        if form.landmark in state:
            return form
    return None


def find_prefixes(state: StateDict) -> list[str]:
    """Prefixes of all ViTs in a checkpoint, teachers left out."""
    prefixes = {
        key[: -len(form.landmark)]
        for key in state
        for form in FORMATS
        if f'.{key}'.endswith(f'.{form.landmark}')
    }
    return sorted(
        prefix
        for prefix in prefixes
        if not any(part in TEACHERS for part in prefix.split('.'))
    )


def tensors_under(prefix: str, state: StateDict) -> StateDict:
    """The tensors of the ViT with a prefix, keys without it."""
    own = {
        key[len(prefix) :]: tensor
        for key, tensor in state.items()
        if key.startswith(prefix)
    }
    # BeitForMaskedImageModeling has the final norm beside the backbone.
    if prefix.endswith('beit.'):
        beside = prefix[: -len('beit.')]
        for name in ('layernorm.weight', 'layernorm.bias'):
            if beside + name in state:
                own.setdefault(name, state[beside + name])
    return own


def to_our_names(state: StateDict, notes: list[str]) -> StateDict:
    """Give the tensors of a ViT our names and our parts.

    Args:
        state (dict[str, Tensor]): Tensors of one ViT, keys without prefix.
        notes (list[str]): What was done is added, a line each.

    Returns:
        dict[str, Tensor]: The same tensors. The bias of the keys is gone: it
        adds to all logits of a query the same number, which the softmax
        cancels. Projections of queries, keys and values are one matrix.
    """
    form = find_format(state)
    ours = {
        rename(key, form.names if form else {}): tensor
        for key, tensor in state.items()
        # Computed here; a buffer in older checkpoints.
        if not key.endswith('relative_position_index')
    }
    for key in [key for key in ours if key.endswith('attn.query.weight')]:
        attn = key[: -len('query.weight')]
        ours[f'{attn}qkv.weight'] = torch.cat(
            [ours.pop(f'{attn}{part}.weight') for part in ('query', 'key', 'value')]
        )
    full = [key for key in ours if key.endswith('attn.qkv.bias')]
    for key in full:
        attn = key[: -len('qkv.bias')]
        q_bias, _, v_bias = ours.pop(key).chunk(3)
        ours[f'{attn}q_bias'], ours[f'{attn}v_bias'] = q_bias, v_bias
    if full:
        notes.append(
            f'dropped the bias of the keys in {len(full)} blocks: '
            'it cancels in the softmax'
        )
    if 'mask_token' in ours and any(key.startswith('decoder') for key in ours):
        del ours['mask_token']
        notes.append("dropped mask_token: it is the decoder's")
    return ours


def describe_others(keys: list[str]) -> list[str]:
    """Say of the parts beside the backbone what they were for, a line each."""
    parts = {}
    for key in keys:
        parts.setdefault(key.split('.')[0], []).append(key)
    lines = []
    for part, members in parts.items():
        reason = next(
            (
                reason
                for name, reason in OTHER_PARTS.items()
                if re.fullmatch(rf'{name}(\d+|_\w+)?', part)
            ),
            'not known',
        )
        lines.append(f'not used: {part}, {len(members)} tensors ({reason})')
    return lines
