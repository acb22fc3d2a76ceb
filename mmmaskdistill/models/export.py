"""Weights out: our ViT as timm's and transformers' BEiT have theirs."""

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
LANDMARKS = {
    'cls_token',
    'patch_embed.proj.weight',
    'blocks.0.attn.qkv.weight',
    'blocks.0.mlp.fc1.weight',
}


class ExportedViT(NamedTuple):
    """A ViT as a checkpoint has it.

    Attributes:
        state (dict[str, Tensor]): Its tensors under our names.
        head (dict[str, Tensor]): ``weight`` and ``bias`` of a classifier, or
            nothing.
        num_heads (int): Attention heads.
        img_size (int): Side in pixels of the images that its window is for.
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
    """Read the ViT of any checkpoint that our backbone could start from.

    Args:
        checkpoint (str): See :func:`.weights.read_checkpoint`.
        prefix (str, optional): Prefix of the ViT's keys.
            Defaults to None, found.
        num_heads (int, optional): Attention heads, needed if there is no
            relative position table to tell.
        trust_checkpoint (bool): See :func:`.weights.read_checkpoint`.

    Raises:
        CheckpointError: If the file cannot be read, has no ViT, or one that
            the other projects' BEiT cannot be.
    """
    file = read_state_dict(checkpoint, trust_checkpoint=trust_checkpoint)
    prefix = find_prefix(file, checkpoint, prefix)
    every = to_our_names(tensors_under(prefix, file), [])
    # In pre-training `head.` is what distills.
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
            f'its tensors are {first_few(foreign or list(every))}'
        )
    if 'norm.weight' in state and 'fc_norm.weight' in state:
        raise CheckpointError(
            f'{checkpoint} has a final norm and one of pooled patches, where '
            "timm's and transformers' BEiT have one of them: fine-tune with "
            'final_norm=False'
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
            f'{checkpoint} has no relative position table, which would tell '
            'the number of heads: give it with --num-heads, and a ViT with a '
            'position embedding'
        )
    patch = state['patch_embed.proj.weight'].shape[2]
    return ExportedViT(state, head, num_heads, side * patch)


def with_a_norm(state: StateDict) -> StateDict:
    """Add what a ViT without final norm lacks elsewhere: one after pooling.

    It changes no patch's features.
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
    """A ViT as timm's ``beitv2_*``.

    timm's models have one relative position table a block and no mask token.

    Returns:
        tuple: The weights, timm's name of the model, and what else
        ``timm.create_model`` needs to know.
    """
    state = with_a_norm(vit.state)
    state.pop('mask_token', None)
    shared = state.pop(SHARED_TABLE, None)
    for i in range(vit.depth if shared is not None else 0):
        key = f'blocks.{i}.attn.{TABLE}'
        state[key] = shared + state[key] if key in state else shared.clone()
    state.update({f'head.{k}': v for k, v in vit.head.items()})
    large = (vit.width, vit.depth, vit.num_heads) == (1024, 24, 16)
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
    """A ViT as transformers' ``BeitModel``, or with a classifier.

    Returns:
        tuple: The weights as its files name them, and its configuration.
    """
    names = {ours: theirs for theirs, ours in TRANSFORMERS.items()}
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
