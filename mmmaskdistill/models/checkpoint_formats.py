"""The names that published checkpoints give to the parameters of a ViT.

:class:`MaskDistillViT` uses BEiT's names. So do BEiT v2, timm's Beit and both public
re-implementations of MaskDistill; MAE and timm's ViT also have a bias of the keys.

For other projects, a table translates the beginnings of names into those of
:class:`MaskDistillViT`. ``*`` stands for the number of a block. An entry applies to the
name itself and to every name that continues it after a dot. If several entries apply,
the first one is used.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

# Names of mmpretrain's BEiTViT, MAEViT and VisionTransformer and of mmseg's BEiT and
# MAE
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
# Names of transformers' BEiT, as its files have them
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
        name (str): Name of the format, for messages.
        landmark (str): Name of the patch embedding's weight. Every ViT has one, so what
            precedes it in a checkpoint's key is the prefix of a ViT.
        names (dict[str, str]): Translation of the format's names into those of
            :class:`MaskDistillViT`.
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
# Modules with a ViT that is not the student: a teacher, or BEiT v2's tokenizer in
# mmpretrain.
TEACHERS = ('teacher', 'target_generator')

# Parts of a checkpoint that the backbone does not use, and why.
OTHER_PARTS = {
    'norm': 'the backbone has final_norm=False',
    'fc_norm': "norm of pooled patches; the backbone has no out_type='avg_featmap'",
    'head': 'classifier',
    'classifier': 'classifier',
    'lm_head': "predicts BEiT's visual tokens",
    'cls_pt_layers': "BEiT v2's blocks for the class token in pre-training",
    'fpn': 'resizes feature maps; segmentors have a neck for it',
    'decoder': "MAE's decoder",
}


def rename(key: str, names: dict[str, str]) -> str:
    """Translate the name of a tensor.

    Args:
        key (str): Name of the tensor, without the ViT's prefix.
        names (dict[str, str]): Table of names, see the module's docstring. A table with
            keys and values exchanged translates back.

    Returns:
        str: The translated name, or ``key`` if no entry applies.
    """
    number = re.search(r'\.(\d+)\.', key)
    if number:
        key = f'{key[: number.start()]}.*.{key[number.end() :]}'
    for old, new in names.items():
        if key == old or key.startswith(f'{old}.'):
            key = new + key[len(old) :]
            break
    return key.replace('*', number[1]) if number else key


def find_format(state: StateDict) -> Format | None:
    """Find the format of a ViT's tensors.

    Args:
        state (dict[str, Tensor]): Tensors of one ViT, keys without its prefix.

    Returns:
        Format | None: The format, or None if it is not known.
    """
    for form in FORMATS:
        if form.landmark in state:
            return form
    return None


def find_prefixes(state: StateDict) -> list[str]:
    """Find the prefixes of all ViTs in a checkpoint except teachers.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.

    Returns:
        list[str]: The prefixes in alphabetical order, such as ``'backbone.'``. The
        prefix of a checkpoint that is a ViT alone is the empty string.
    """
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
    """Select the tensors of the ViT that has a prefix.

    Args:
        prefix (str): Prefix of the ViT's keys, including the final dot.
        state (dict[str, Tensor]): All tensors of the checkpoint.

    Returns:
        dict[str, Tensor]: The ViT's tensors, keys without the prefix.
    """
    own = {
        key[len(prefix) :]: tensor
        for key, tensor in state.items()
        if key.startswith(prefix)
    }
    # transformers' BeitForMaskedImageModeling has the final norm outside the backbone.
    if prefix.endswith('beit.'):
        outside = prefix[: -len('beit.')]
        for name in ('layernorm.weight', 'layernorm.bias'):
            if outside + name in state:
                own.setdefault(name, state[outside + name])
    return own


def to_our_names(state: StateDict, notes: list[str]) -> StateDict:
    """Give the tensors of a ViT the names and the layout of :class:`MaskDistillViT`.

    The separate projections of queries, keys and values become one matrix. A bias of
    the keys is dropped: it adds the same number to all logits of a query, which the
    softmax cancels. So is the mask token of MAE's decoder.

    Args:
        state (dict[str, Tensor]): Tensors of one ViT, keys without prefix.
        notes (list[str]): A line for every change is appended to this list.

    Returns:
        dict[str, Tensor]: The tensors under their new names.
    """
    form = find_format(state)
    renamed = {
        rename(key, form.names if form else {}): tensor
        for key, tensor in state.items()
        # Older checkpoints store this index as a buffer; here it is computed.
        if not key.endswith('relative_position_index')
    }
    for key in [key for key in renamed if key.endswith('attn.query.weight')]:
        attn = key[: -len('query.weight')]
        renamed[f'{attn}qkv.weight'] = torch.cat(
            [renamed.pop(f'{attn}{part}.weight') for part in ('query', 'key', 'value')]
        )
    full = [key for key in renamed if key.endswith('attn.qkv.bias')]
    for key in full:
        attn = key[: -len('qkv.bias')]
        q_bias, _, v_bias = renamed.pop(key).chunk(3)
        renamed[f'{attn}q_bias'], renamed[f'{attn}v_bias'] = q_bias, v_bias
    if full:
        notes.append(
            f'dropped the bias of the keys in {len(full)} blocks: '
            'it cancels in the softmax'
        )
    if 'mask_token' in renamed and any(key.startswith('decoder') for key in renamed):
        del renamed['mask_token']
        notes.append('dropped mask_token: it belongs to the decoder')
    return renamed


def describe_others(keys: list[str]) -> list[str]:
    """Describe the parts of a checkpoint that the backbone does not use.

    Args:
        keys (list[str]): Names of the tensors that are not used.

    Returns:
        list[str]: One line for each part, the first component of a name.
    """
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
            'unknown part',
        )
        lines.append(f'not used: {part}, {len(members)} tensors ({reason})')
    return lines
