"""Convert the ViT of a checkpoint to the BEiT of timm or of transformers."""

from typing import NamedTuple

import torch

from mmmaskdistill.errors import CheckpointError

from .checkpoint_formats import (
    TRANSFORMERS,
    StateDict,
    rename,
    tensors_under,
    to_our_names,
)
from .weights import (
    ESSENTIAL,
    TABLE,
    find_prefix,
    first_few,
    read_state_dict,
    square_grid,
    square_window,
)

SHARED_TABLE = f'rel_pos_bias.{TABLE}'
# Tensors that every ViT like BEiT has.
LANDMARKS = {
    'cls_token',
    'patch_embed.proj.weight',
    'blocks.0.attn.qkv.weight',
    'blocks.0.mlp.fc1.weight',
}


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

    Args:
        checkpoint (str): See :func:`.weights.read_checkpoint`.
        prefix (str, optional): Prefix of the ViT's keys. Defaults to None: the only
            ViT's prefix is found.
        num_heads (int, optional): Number of attention heads. It is needed, and only
            used, if the ViT has no relative position table. Defaults to None.
        trust_checkpoint (bool): See :func:`.weights.read_checkpoint`.

    Returns:
        ExportedViT: The ViT, and its classifier if there is one.

    Raises:
        CheckpointError: If the file cannot be read, has no ViT, or has a ViT that the
            BEiT of timm and of transformers cannot represent.
    """
    file = read_state_dict(checkpoint, trust_checkpoint=trust_checkpoint)
    prefix = find_prefix(file, checkpoint, prefix)
    every = to_our_names(tensors_under(prefix, file), [])
    # Next to a backbone, `head.weight` is the head of pre-training, not a classifier.
    classifier = 'head.' if prefix == '' else 'head.fc.'
    head = {
        key: tensor
        for key, tensor in tensors_under(classifier, file).items()
        if key in ('weight', 'bias')
    }
    state = {
        key: tensor
        for key, tensor in every.items()
        if key in ('cls_token', 'mask_token', 'pos_embed', SHARED_TABLE)
        or key.startswith(('patch_embed.', 'blocks.', 'norm.', 'fc_norm.'))
    }
    foreign = [k for k in every if k.startswith(ESSENTIAL) and k not in state]
    if foreign or not state.keys() >= LANDMARKS:
        raise CheckpointError(
            f'{checkpoint} has no ViT like BEiT under the prefix {prefix!r}: '
            + (
                f'BEiT does not have {first_few(foreign)}'
                if foreign
                else f'its tensors are {first_few(list(every))}, expected '
                f'{first_few(sorted(LANDMARKS), 4)} among them'
            )
        )
    if 'norm.weight' in state and 'fc_norm.weight' in state:
        raise CheckpointError(
            f'{checkpoint} has both a final norm and a norm of the pooled patches '
            '(fc_norm), but the BEiT of timm and of transformers has only one of the '
            'two: fine-tune with final_norm=False'
        )
    table = next((v for k, v in state.items() if k.endswith(TABLE)), None)
    grid = state.get('pos_embed')
    if table is not None:
        num_heads = table.shape[1]
        side, _ = square_window(len(table) - 3, TABLE)
    elif grid is not None and num_heads is not None:
        side, _ = square_grid(grid.shape[1] - 1, 'pos_embed')
    else:
        raise CheckpointError(
            f'{checkpoint} has no relative position table, from which the number of '
            'heads could be read: give it with --num-heads. The ViT must then have a '
            'position embedding'
        )
    patch = state['patch_embed.proj.weight'].shape[2]
    return ExportedViT(state, head, num_heads, side * patch)


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
