"""The names that published checkpoints give to the parameters of a ViT.

:class:`MaskDistillViT` uses BEiT's names. So do BEiT v2, timm's Beit and both public
re-implementations of MaskDistill; MAE and timm's ViT also have a bias of the keys.
Nothing here changes, loads, reads or logs anything.

For other projects, a table translates the beginnings of names into those of
:class:`MaskDistillViT`. ``*`` stands for the number of a block. An entry applies to the
name itself and to every name that continues it after a dot. If several entries apply,
the first one is used.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from mmmaskdistill.errors import CheckpointError, first_few

StateDict = dict[str, Tensor]

# Names of the layer scale of timm's VisionTransformer and of DINOv2, which otherwise
# have BEiT's names
TIMM = {
    'blocks.*.ls1.gamma': 'blocks.*.gamma_1',
    'blocks.*.ls2.gamma': 'blocks.*.gamma_2',
}
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
    Format('BEiT', 'patch_embed.proj.weight', TIMM),
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


# What torch.compile, FSDP and checkpoint_wrapper add to the names of tensors
WRAPPERS = re.compile(r'(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


def plain_name(key: str) -> str:
    """Return the name that a tensor has without the wrappers of torch.

    A module that is compiled, sharded or recomputed has the original one as its child,
    such as ``_orig_mod``, which may stand anywhere in the names of its tensors.

    Args:
        key (str): Name of a tensor, such as ``backbone._orig_mod.cls_token``.
    """
    return WRAPPERS.sub('', key)


def find_prefixes(state: StateDict) -> list[str]:
    """Find the prefixes of all ViTs in a checkpoint except teachers.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.

    Returns:
        list[str]: The prefixes in alphabetical order, such as ``'backbone.'``. The
        prefix of a checkpoint that is a ViT alone is the empty string.
    """
    return [prefix for prefix in _prefixes(state) if not _is_teacher(prefix)]


def _prefixes(state: StateDict) -> list[str]:
    """Find the prefixes of all ViTs in a checkpoint, in alphabetical order."""
    return sorted(
        {
            key[: -len(form.landmark)]
            for key in state
            for form in FORMATS
            if f'.{key}'.endswith(f'.{form.landmark}')
        }
    )


def _is_teacher(prefix: str) -> bool:
    return any(part in TEACHERS for part in prefix.split('.'))


def find_prefix(state: StateDict, checkpoint: str, prefix: str | None = None) -> str:
    """Find the prefix of the ViT in a checkpoint.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.
        checkpoint (str): The checkpoint's name, for messages.
        prefix (str, optional): A prefix to use in any case, with or without its final
            dot. Defaults to None: the prefix of the only ViT that is not a teacher is
            found.

    Returns:
        str: The prefix, which is empty or ends with a dot.

    Raises:
        CheckpointError: If no prefix is given and the checkpoint has no ViT or several.
    """
    if prefix is not None:
        # mmengine adds a missing dot, too.
        return prefix if prefix.endswith('.') or not prefix else f'{prefix}.'
    prefixes = find_prefixes(state)
    if len(prefixes) == 1:
        return prefixes[0]
    if prefixes:
        raise CheckpointError(
            f'{checkpoint} has several ViTs, under the prefixes {prefixes}: '
            'choose one with prefix=...'
        )
    teachers = _prefixes(state)
    if teachers:
        raise CheckpointError(
            f'{checkpoint} has no student, only the ViT of a teacher, under '
            f'{" and ".join(map(repr, teachers))}: to load a teacher, name it with '
            'prefix=...'
        )
    raise CheckpointError(
        f'{checkpoint} has no ViT in a known format: none of its {len(state)} keys '
        f'ends with {" or ".join(form.landmark for form in FORMATS)}; the first '
        f'keys are {", ".join(list(state)[:3])}'
    )


def select_vit(
    state: StateDict, checkpoint: str, prefix: str | None = None
) -> tuple[StateDict, str]:
    """Select the tensors of the ViT in a checkpoint.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.
        checkpoint (str): The checkpoint's name, for messages.
        prefix (str, optional): See :func:`find_prefix`. Defaults to None.

    Returns:
        tuple[dict[str, Tensor], str]: The ViT's tensors, keys without the prefix, and
        a description of where they were found.

    Raises:
        CheckpointError: If the checkpoint has no ViT or several.
    """
    prefix = find_prefix(state, checkpoint, prefix)
    own = tensors_under(prefix, state)
    form = find_format(own)
    origin = f'{form.name if form else "unknown"} format, prefix {prefix!r}'
    teachers = [other for other in _prefixes(state) if _is_teacher(other)]
    if teachers and prefix not in teachers:
        origin += f' and not the teacher under {" or ".join(map(repr, teachers))}'
    return own, origin


def select_under(
    prefix: str, state: StateDict, checkpoint: str
) -> tuple[StateDict, str]:
    """Select the tensors under a prefix, which must have some.

    Args:
        prefix (str): The prefix, with or without its final dot.
        state (dict[str, Tensor]): All tensors of the checkpoint.
        checkpoint (str): The checkpoint's name, for messages.

    Returns:
        tuple[dict[str, Tensor], str]: The tensors, keys without the prefix, and a
        description of where they were found.

    Raises:
        CheckpointError: If no tensor has the prefix.
    """
    prefix = find_prefix(state, checkpoint, prefix)
    own = tensors_under(prefix, state)
    if not own:
        raise CheckpointError(
            f'{checkpoint} has no key that begins with {prefix!r}: the first keys '
            f'are {", ".join(list(state)[:3])}'
        )
    return own, f'prefix {prefix!r}'


def select_by_landmark(
    landmark: str, state: StateDict, checkpoint: str
) -> tuple[StateDict, str]:
    """Select the tensors of the only model in a checkpoint that has a certain tensor.

    Args:
        landmark (str): Name of a tensor that every model of this kind has.
        state (dict[str, Tensor]): All tensors of the checkpoint.
        checkpoint (str): The checkpoint's name, for messages.

    Returns:
        tuple[dict[str, Tensor], str]: See :func:`select_under`.

    Raises:
        CheckpointError: If there is no such model or several.
    """
    prefixes = sorted(
        key[: -len(landmark)]
        for key in state
        if f'.{key}'.endswith(f'.{landmark}') and not _is_teacher(key[: -len(landmark)])
    )
    if len(prefixes) > 1:
        raise CheckpointError(
            f'{checkpoint} has several models with a {landmark}, under the prefixes '
            f'{prefixes}: choose one with prefix=...'
        )
    if not prefixes:
        raise CheckpointError(
            f'{checkpoint} does not have the backbone: none of its {len(state)} keys '
            f'ends with {landmark}; the first keys are {", ".join(list(state)[:3])}'
        )
    return select_under(prefixes[0], state, checkpoint)


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

    Raises:
        CheckpointError: If a block has only some of the projections of queries, keys
            and values.
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
        parts = [f'{attn}{part}.weight' for part in ('query', 'key', 'value')]
        lacking = [part for part in parts if part not in renamed]
        if lacking:
            raise CheckpointError(
                f'the checkpoint has {key} but not {first_few(lacking)}: it is '
                'incomplete'
            )
        renamed[f'{attn}qkv.weight'] = torch.cat([renamed.pop(part) for part in parts])
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


def reason_not_used(part: str) -> str:
    """Say why the backbone does not use a part of a checkpoint.

    Args:
        part (str): The first component of the names of the part's tensors.
    """
    return next(
        (
            reason
            for name, reason in OTHER_PARTS.items()
            if re.fullmatch(rf'{name}(\d+|_\w+)?', part)
        ),
        'unknown part',
    )
