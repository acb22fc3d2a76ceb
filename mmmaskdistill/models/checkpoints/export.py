"""Convert the ViT of a checkpoint to other libraries, and publish checkpoints."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from mmmaskdistill.errors import CheckpointError, first_few
from mmmaskdistill.registry import MODELS

from .coverage import ESSENTIAL, find_problems
from .files import META, Weights, read_weights, write_weights
from .fitting import SHARED_TABLE, TABLE, fit, square_grid, square_grid_of_table
from .formats import (
    TRANSFORMERS,
    StateDict,
    find_prefix,
    rename,
    tensors_under,
    to_our_names,
)

# Tensors that every ViT like BEiT has.
LANDMARKS = {
    'cls_token',
    'patch_embed.proj.weight',
    'blocks.0.attn.qkv.weight',
    'blocks.0.mlp.fc1.weight',
}
# Endings of published files.
PUBLISHED = ('.pth', '.safetensors')
ONLY_SQUARE = 'and timm and transformers have BEiT only for square images'


class ExportedViT(NamedTuple):
    """The ViT of a checkpoint, and a classifier on top of it.

    Attributes:
        state (dict[str, Tensor]): The ViT's tensors under the names of
            :class:`MaskDistillViT`.
        head (dict[str, Tensor]): The classifier's ``weight`` [C, D] and ``bias`` [C];
            empty if there is none.
        num_heads (int): Number of attention heads.
        img_size (int): Side in pixels of the square images that the relative position
            tables or the position embedding are made for.
        depth (int): Number of blocks.
        width (int): Width D of the tokens.
        hidden (int): Hidden width of the MLPs.
        patch_size (int): Side of a patch in pixels.
    """

    state: StateDict
    head: StateDict
    num_heads: int
    img_size: int

    depth = property(
        lambda self: (
            1 + max(int(k.split('.')[1]) for k in self.state if k.startswith('blocks.'))
        )
    )
    width = property(lambda self: self.state['cls_token'].shape[2])
    hidden = property(lambda self: len(self.state['blocks.0.mlp.fc1.weight']))
    patch_size = property(lambda self: self.state['patch_embed.proj.weight'].shape[2])


def read_vit(
    checkpoint: str,
    prefix: str | None = None,
    num_heads: int | None = None,
    trust_checkpoint: bool = False,
) -> ExportedViT:
    """Read the ViT of any checkpoint that :class:`MaskDistillViT` can start from.

    The tensors are fitted to a ViT that is built without memory as the file has it.

    Args:
        checkpoint (str): See :func:`.files.read_weights`.
        prefix (str, optional): Prefix of the ViT's keys. Defaults to None: the only
            ViT's prefix is found.
        num_heads (int, optional): Number of attention heads. It is needed, and only
            used, if the ViT has no relative position table. Defaults to None.
        trust_checkpoint (bool): See :func:`.files.read_weights`.

    Returns:
        ExportedViT: The ViT, and its classifier if there is one.

    Raises:
        CheckpointError: If the file cannot be read, has no ViT, or has a ViT that the
            BEiT of timm and of transformers cannot represent.
    """
    file = read_weights(checkpoint, trust_checkpoint=trust_checkpoint).tensors
    prefix = find_prefix(file, checkpoint, prefix)
    tensors = to_our_names(tensors_under(prefix, file), [])
    misfit = f'{checkpoint} has no ViT like BEiT under the prefix {prefix!r}: '
    if not tensors.keys() >= LANDMARKS:
        raise CheckpointError(
            f'{misfit}its tensors are {first_few(list(tensors))}, expected '
            f'{first_few(sorted(LANDMARKS), 4)} among them'
        )
    if 'norm.weight' in tensors and 'fc_norm.weight' in tensors:
        raise CheckpointError(
            f'{checkpoint} has both a final norm and a norm of the pooled patches '
            '(fc_norm), but the BEiT of timm and of transformers has only one of the '
            'two: fine-tune with final_norm=False'
        )
    table = next((v for k, v in tensors.items() if k.endswith(TABLE)), None)
    if table is not None:
        num_heads = table.shape[1]
        side, _ = square_grid_of_table(len(table), TABLE, ONLY_SQUARE)
    elif 'pos_embed' in tensors and num_heads is not None:
        patches = tensors['pos_embed'].shape[1] - 1
        side, _ = square_grid(patches, 'pos_embed', ONLY_SQUARE)
    else:
        raise CheckpointError(
            f'{checkpoint} has no relative position table, from which the number of '
            'heads could be read: give it with --num-heads. The ViT must then have a '
            'position embedding'
        )
    state, report = fit(_build_as_in(tensors, num_heads, side), tensors)
    problems = find_problems(report, ESSENTIAL)
    if problems:
        raise CheckpointError(misfit + ', '.join(problems))
    # Next to a backbone, `head.weight` is the head of pre-training, not a classifier.
    classifier = 'head.' if prefix == '' else 'head.fc.'
    head = {
        key: tensor
        for key, tensor in tensors_under(classifier, file).items()
        if key in ('weight', 'bias')
    }
    patch = state['patch_embed.proj.weight'].shape[2]
    return ExportedViT(state, head, num_heads, side * patch)


def _build_as_in(tensors: StateDict, num_heads: int, side: int) -> nn.Module:
    """Build the ViT that has a checkpoint's tensors, on a device without memory."""
    width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
    blocks = {key.split('.')[1] for key in tensors if key.startswith('blocks.')}
    with torch.device('meta'):
        # The registry knows the class, which this room may not import.
        return MODELS.build(
            dict(
                type='mmmaskdistill.MaskDistillViT',
                arch=dict(
                    embed_dims=width,
                    num_layers=len(blocks),
                    num_heads=num_heads,
                    feedforward_channels=len(tensors['blocks.0.mlp.fc1.weight']),
                ),
                img_size=side * patch,
                patch_size=patch,
                in_channels=channels,
                out_type='avg_featmap' if 'fc_norm.weight' in tensors else 'raw',
                layer_scale_init_value=0.1 if 'blocks.0.gamma_1' in tensors else 0,
                use_abs_pos_emb='pos_embed' in tensors,
                use_rel_pos_bias=f'blocks.0.attn.{TABLE}' in tensors,
                use_shared_rel_pos_bias=SHARED_TABLE in tensors,
                final_norm='norm.weight' in tensors,
            )
        )


def with_a_norm(state: StateDict) -> StateDict:
    """Give a ViT without any norm after its blocks a norm of the pooled patches.

    The BEiT of timm and of transformers needs either a final norm or a norm of the
    pooled patches (``fc_norm``). The latter does not change the features of patches.

    Args:
        state (dict[str, Tensor]): The tensors of a ViT; not changed.

    Returns:
        dict[str, Tensor]: The tensors with one of the two norms.
    """
    if 'norm.weight' in state or 'fc_norm.weight' in state:
        return dict(state)
    width = state['cls_token'].shape[2]
    return {
        **state,
        'fc_norm.weight': torch.ones(width),
        'fc_norm.bias': torch.zeros(width),
    }


def to_timm(vit: ExportedViT) -> tuple[StateDict, str, dict]:
    """Convert a ViT to one of timm's ``beitv2_*`` models.

    timm's models have a relative position table in each block and no mask token, so a
    shared table is copied to every block and the mask token is dropped.

    Args:
        vit (ExportedViT): The ViT.

    Returns:
        tuple[dict[str, Tensor], str, dict]: The weights, timm's name of the model, and
        the further arguments that ``timm.create_model`` needs.
    """
    state = with_a_norm(vit.state)
    state.pop('mask_token', None)
    shared = state.pop(SHARED_TABLE, None)
    for i in range(vit.depth if shared is not None else 0):
        key = f'blocks.{i}.attn.{TABLE}'
        state[key] = shared + state[key] if key in state else shared.clone()
    state.update({f'head.{k}': v for k, v in vit.head.items()})
    large = (vit.width, vit.depth, vit.num_heads) == (1024, 24, 16)
    # Only arguments that differ from those of timm's named model are returned.
    usual = dict(
        embed_dim=1024 if large else 768,
        depth=24 if large else 12,
        num_heads=16 if large else 12,
        mlp_ratio=4,
        patch_size=16,
        img_size=224,
        init_values=1e-5,
        use_rel_pos_bias=True,
        use_abs_pos_emb=False,
        global_pool='avg',
        num_classes=1000,
    )
    options = dict(
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.num_heads,
        mlp_ratio=vit.hidden / vit.width,
        patch_size=vit.patch_size,
        img_size=vit.img_size,
        init_values=1e-5 if 'blocks.0.gamma_1' in state else 0,
        use_rel_pos_bias=f'blocks.0.attn.{TABLE}' in state,
        use_abs_pos_emb='pos_embed' in state,
        global_pool='avg' if 'fc_norm.weight' in state else 'token',
        num_classes=len(vit.head['weight']) if vit.head else 0,
    )
    name = f'beitv2_{"large" if large else "base"}_patch16_224'
    return (
        state,
        name,
        {key: value for key, value in options.items() if value != usual[key]},
    )


def to_transformers(vit: ExportedViT) -> tuple[StateDict, dict]:
    """Convert a ViT to transformers' ``BeitModel``.

    With a classifier, it becomes a ``BeitForImageClassification``.

    Args:
        vit (ExportedViT): The ViT.

    Returns:
        tuple[dict[str, Tensor], dict]: The weights under the names in transformers'
        files, and the content of ``config.json``.
    """
    names = {new: old for old, new in TRANSFORMERS.items()}
    state = with_a_norm(vit.state)
    for i in range(vit.depth):
        attn = f'blocks.{i}.attn.'
        parts = state.pop(f'{attn}qkv.weight').chunk(3)
        for part, weight in zip(('query', 'key', 'value'), parts):
            state[f'{attn}{part}.weight'] = weight
    state = {rename(key, names): tensor for key, tensor in state.items()}
    config = dict(
        model_type='beit',
        architectures=['BeitModel'],
        hidden_size=vit.width,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.num_heads,
        intermediate_size=vit.hidden,
        image_size=vit.img_size,
        patch_size=vit.patch_size,
        num_channels=vit.state['patch_embed.proj.weight'].shape[1],
        layer_norm_eps=1e-6,
        layer_scale_init_value=0.1 if 'blocks.0.gamma_1' in vit.state else 0.0,
        drop_path_rate=0.0,
        use_mask_token='mask_token' in vit.state,
        use_absolute_position_embeddings='pos_embed' in vit.state,
        use_relative_position_bias=f'blocks.0.attn.{TABLE}' in vit.state,
        use_shared_relative_position_bias=SHARED_TABLE in vit.state,
        use_mean_pooling='norm.weight' not in vit.state,
    )
    if vit.head:
        state = {f'beit.{key}': tensor for key, tensor in state.items()}
        state.update({f'classifier.{k}': v for k, v in vit.head.items()})
        labels = [f'LABEL_{i}' for i in range(len(vit.head['weight']))]
        config.update(
            architectures=['BeitForImageClassification'],
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
    return state, config


def check_ending(out: str) -> None:
    """Check the ending of a file to publish.

    Args:
        out (str): The file.

    Raises:
        CheckpointError: If it is none of :data:`PUBLISHED`.
    """
    if os.path.splitext(out)[1] not in PUBLISHED:
        raise CheckpointError(
            f'cannot publish to {out!r}: expected NAME.pth or NAME.safetensors'
        )


def publish(
    weights: Weights, checkpoint: str, out: str, backbone: bool = False
) -> tuple[str, int]:
    """Write the weights of a run's checkpoint to a file named after its content.

    The config and the data set's meta information, such as the names and the colors of
    its classes, are kept. The optimizer and the training history are not.

    Args:
        weights (Weights): The weights with their config.
        checkpoint (str): Where they are from, for messages.
        out (str): ``NAME.pth`` or ``NAME.safetensors``. The file is written as
            ``NAME-HASH.pth`` or ``NAME-HASH.safetensors``, where HASH is the beginning
            of its SHA-256 hash.
        backbone (bool): Whether to keep only the weights of the backbone, without the
            prefix ``backbone.``. Defaults to False.

    Returns:
        tuple[str, int]: Path of the written file, and its number of tensors.

    Raises:
        CheckpointError: If there are no weights to publish, or ``out`` has another
            ending.
        OSError: If the file cannot be written.
    """
    check_ending(out)
    state, meta = weights
    if backbone:
        state = {
            key.removeprefix('backbone.'): tensor
            for key, tensor in state.items()
            if key.startswith('backbone.')
        }
        if not state:
            raise CheckpointError(f'{checkpoint!r} has no weights of a backbone')
    meta = {key: meta[key] for key in META if meta.get(key)}
    name, suffix = os.path.splitext(out)
    draft = f'{name}-draft{suffix}'
    write_weights(state, draft, meta)
    digest = hashlib.sha256(Path(draft).read_bytes()).hexdigest()[:8]
    path = f'{name}-{digest}{suffix}'
    os.replace(draft, path)
    return path, len(state)
