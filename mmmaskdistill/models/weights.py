"""Weights in: reading checkpoint files safely, fitting them to our ViT."""

import argparse
import logging
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError

from .checkpoint_formats import (
    FORMATS,
    StateDict,
    describe_others,
    find_format,
    find_prefixes,
    tensors_under,
    to_our_names,
)
from .layers import (
    resize_position_embedding,
    resize_relative_position_table,
    table_length,
)
from .torchscript import is_torchscript, read_torchscript

TABLE = 'relative_position_bias_table'
# Learned by pre-training alone, or by the task alone: a checkpoint of the
# other kind does not have them.
OPTIONAL = ('mask_token', 'norm.', 'fc_norm.')
# Whoever has these computes other features without them.
ESSENTIAL = (
    'blocks.',
    'patch_embed.',
    'cls_token',
    'pos_embed',
    'rel_pos_bias.',
    'norm_pre.',
    'pre_norm.',
    'reg_token',
    'dist_token',
)
# Parts that a ViT may lack, and what the backbone is to be told.
CHOICES = (
    ('gamma_1', 'layer_scale_init_value', '0', '0.1'),
    (f'attn.{TABLE}', 'use_rel_pos_bias', 'False', 'True'),
    (f'rel_pos_bias.{TABLE}', 'use_shared_rel_pos_bias', 'False', 'True'),
    ('pos_embed', 'use_abs_pos_emb', 'False', 'True'),
)


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def _load_safetensors(filename: str, map_location='cpu') -> StateDict:
    """Let ``load_from`` and mmengine's other loading read such a file."""
    return load_file(filename)


def read_checkpoint(checkpoint: str, trust_checkpoint: bool = False) -> Any:
    """Read a file of weights, and what lies beside them.

    No file can run code: pickles are read with ``weights_only=True`` and an
    allow-list, of TorchScript archives the tensors alone are read.

    Args:
        checkpoint (str): ``.pth``, ``.pt``, ``.ckpt``, ``.safetensors`` or a
            TorchScript archive such as OpenAI publishes CLIP in; a path, or an
            address that mmengine can read.
        trust_checkpoint (bool): Read a pickle that holds more than tensors
            and the containers known to be harmless. Whoever made the file can
            then run any code here. Defaults to False.

    Returns:
        Any: What the file holds, tensors on the CPU.

    Raises:
        CheckpointError: If there is no such file, it cannot be read, or is
            not trusted.
    """
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise CheckpointError(f'checkpoint {checkpoint!r} does not exist')
    if trust_checkpoint:
        print_log(
            f'trust_checkpoint=True: {checkpoint} may run any code',
            logger='current',
            level=logging.WARNING,
        )
    try:
        return _read(checkpoint, trust_checkpoint)
    except Exception as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if refused:
            raise CheckpointError(
                f'checkpoint {checkpoint!r} is refused: it holds '
                f'{refused[1]}, and reading more than tensors could run code. '
                'Ask for a .safetensors file; if you trust whoever made this '
                "one, a backbone's init_cfg takes trust_checkpoint=True, a "
                'converter --trust-checkpoint'
            ) from error
        raise CheckpointError(
            f'checkpoint {checkpoint!r} cannot be read '
            f'({first_line(error)}): it is damaged, no file of weights or not '
            'within reach; get it again'
        ) from error


def read_state_dict(
    checkpoint: str, map_location: str = 'cpu', trust_checkpoint: bool = False
) -> StateDict:
    """Read the tensors of a file and nothing else.

    Args:
        checkpoint (str): See :func:`read_checkpoint`.
        map_location (str): Device of the tensors. Defaults to ``'cpu'``.
        trust_checkpoint (bool): See :func:`read_checkpoint`.

    Returns:
        dict[str, Tensor]: The tensors, out of a ``state_dict``, ``model`` or
        ``module`` wrapper and without a ``module.`` prefix.

    Raises:
        CheckpointError: If the file cannot be read or holds no weights.
    """
    content = read_checkpoint(checkpoint, trust_checkpoint)
    tensors = named_tensors(content)
    if not tensors:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} holds no weights but a '
            f'{type(content).__name__}: give one whose tensors are named, '
            "under 'state_dict', 'model', 'module' or directly"
        )
    return {key: tensor.to(map_location) for key, tensor in tensors.items()}


def named_tensors(content: Any) -> StateDict:
    """The tensors of a checkpoint's content, out of all wrappers."""
    for wrapper in ('state_dict', 'model', 'module'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        return {}
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if all(key.startswith('module.') for key in tensors):
        tensors = {key[len('module.') :]: v for key, v in tensors.items()}
    return tensors


def _read(checkpoint: str, trust: bool) -> Any:
    if checkpoint.startswith(('http://', 'https://')):
        path = _download(checkpoint)
    elif '://' in checkpoint:
        return CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    else:
        path = Path(checkpoint)
    if path.suffix == '.safetensors':
        return load_file(path)
    if is_torchscript(path):
        return read_torchscript(path)
    # Training scripts save their arguments beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location='cpu', weights_only=not trust)


def _download(address: str) -> Path:
    """The file in torch's cache; it comes there whole or not at all."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(address).path).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if get_rank() == 0 and not path.exists():
            torch.hub.download_url_to_file(address, str(path), progress=False)
    finally:
        barrier()
    if not path.exists():  # on another machine than rank 0
        torch.hub.download_url_to_file(address, str(path), progress=False)
    return path


def load_backbone(
    vit: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str = 'cpu',
    trust_checkpoint: bool = False,
) -> list[str]:
    """Start a :class:`MaskDistillViT` from a checkpoint; say what was done.

    The formats of :mod:`.checkpoint_formats` are told by their keys. A shared
    relative position table is expanded to one table a block, tables and the
    position embedding are resized to the ViT's window.

    Args:
        vit (nn.Module): The backbone, changed in place.
        checkpoint (str): See :func:`read_state_dict`.
        prefix (str, optional): Prefix of the backbone's keys in the file.
            Defaults to None, found by looking for the patch embedding.
        map_location (str): See :func:`read_state_dict`.
        trust_checkpoint (bool): See :func:`read_state_dict`.

    Returns:
        list[str]: The report, which is logged too.

    Raises:
        CheckpointError: If the file has no ViT, or does not cover the
            backbone.
    """
    state = read_state_dict(checkpoint, map_location, trust_checkpoint)
    own, report = fit_to_vit(state, vit, checkpoint, prefix)
    vit.load_state_dict(own, strict=False)
    print_log('\n  '.join(report), logger='current')
    return report


def fit_to_vit(
    state: StateDict, vit: nn.Module, checkpoint: str, prefix: str | None = None
) -> tuple[StateDict, list[str]]:
    """Find the ViT in a checkpoint and make it fit a backbone.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.
        vit (nn.Module): The :class:`MaskDistillViT` to fit.
        checkpoint (str): The checkpoint's name, for messages.
        prefix (str, optional): See :func:`load_backbone`.

    Returns:
        tuple: The tensors that the backbone takes, and the report.

    Raises:
        CheckpointError: See :func:`load_backbone`.
    """
    prefix = find_prefix(state, checkpoint, prefix)
    state = tensors_under(prefix, state)
    form = find_format(state)
    own, notes = adapt_to_vit(state, vit)
    wanted = vit.state_dict()
    _check_fit(own, wanted, vit, checkpoint)
    fresh = [k for k in wanted if k not in own]
    report = [
        f'backbone from {checkpoint}, {form.name if form else "no"} format, '
        f'prefix {prefix!r}: {len(wanted) - len(fresh)} of {len(wanted)} '
        'tensors matched',
        *notes,
    ]
    if fresh:
        report.append(f'left as initialized: {", ".join(fresh)}')
    report += describe_others([k for k in own if k not in wanted])
    return {k: own[k] for k in wanted if k in own}, report


def _check_fit(own: StateDict, wanted: StateDict, vit: nn.Module, checkpoint: str):
    """Refuse weights that would not give the checkpoint's features."""
    wrong = [
        f'{k} {tuple(own[k].shape)} for {tuple(v.shape)}'
        for k, v in wanted.items()
        if k in own and own[k].shape != v.shape
    ]
    missing = [k for k in wanted if k not in own and not k.startswith(OPTIONAL)]
    left_over = [k for k in own if k not in wanted and k.startswith(ESSENTIAL)]
    if not (wrong or missing or left_over):
        return
    settings = []
    for part, option, without, with_it in CHOICES:
        given = any(part in key for key in own)
        if given != any(part in key for key in wanted):
            settings.append(f'{option}={with_it if given else without}')
    raise CheckpointError(
        f'{checkpoint} does not fit the backbone:'
        f'{_counted("of another shape", wrong)}'
        f'{_counted("missing", missing)}'
        f'{_counted("without a place", left_over)}. The backbone is a ViT of '
        f'width {vit.embed_dims}, {vit.num_layers} blocks and patches of '
        f'{vit.patch_size} pixels; set '
        f'{", ".join(settings) or "arch and patch_size"} to have what the '
        'checkpoint has.'
    )


def adapt_to_vit(state: StateDict, vit: nn.Module) -> tuple[StateDict, list[str]]:
    """Fit names, relative position tables and position embedding to a ViT.

    Args:
        state (dict[str, Tensor]): Backbone weights, keys without prefix.
        vit (nn.Module): The :class:`MaskDistillViT` to fit.

    Returns:
        tuple: The fitted weights, and what was done, a line each.

    Raises:
        CheckpointError: If it cannot be told what window to resize from.
    """
    notes = []
    state = _place_tables(to_our_names(state, notes), vit, notes)
    window = vit.patch_resolution
    resized = {}
    for key in [k for k in state if k.endswith(TABLE)]:
        rows = len(state[key])
        if rows != table_length(window):
            source = square_window(rows - 3, key)
            state[key] = resize_relative_position_table(state[key], source, window)
            resized[source] = resized.get(source, 0) + 1
    notes += [
        f'resized {count} relative position tables from the window {source} to {window}'
        for source, count in resized.items()
    ]
    embedding = state.get('pos_embed')
    if (
        embedding is not None
        and vit.pos_embed is not None
        and embedding.shape[1] != vit.pos_embed.shape[1]
    ):
        source = square_grid(embedding.shape[1] - 1, 'pos_embed')
        state['pos_embed'] = resize_position_embedding(embedding, source, window)
        notes.append(f'resized pos_embed from {source} to {window}')
    return state, notes


def _place_tables(state: StateDict, vit: nn.Module, notes: list[str]) -> StateDict:
    """Give each block its own copy of a shared table, if it wants one.

    Bias is added to the logits, so a block that had both a shared table and
    its own gets their sum.
    """
    shared_key = f'rel_pos_bias.{TABLE}'
    if (
        shared_key not in state
        or vit.rel_pos_bias is not None
        or vit.blocks[0].attn.window is None
    ):
        return state
    shared = state.pop(shared_key)
    for i in range(len(vit.blocks)):
        key = f'blocks.{i}.attn.{TABLE}'
        state[key] = shared + state[key] if key in state else shared.clone()
    notes.append(
        f'expanded {shared_key} to one table for each of {len(vit.blocks)} blocks'
    )
    return state


def square_grid(patches: int, what: str) -> tuple[int, int]:
    """The square grid of so many patches, or a CheckpointError."""
    side = math.isqrt(max(patches, 0))
    if side**2 != patches:
        raise CheckpointError(
            f'{what} is for {patches} patches or offsets, which no square '
            'has: cannot tell what to resize it from; set img_size to the '
            "checkpoint's"
        )
    return side, side


def square_window(offsets: int, what: str) -> tuple[int, int]:
    """The square window with so many offsets, or a CheckpointError."""
    side, _ = square_grid(offsets, what)
    return (side + 1) // 2, (side + 1) // 2


def find_prefix(state: StateDict, checkpoint: str, prefix: str | None = None) -> str:
    """The prefix asked for, or that of the only ViT, or a CheckpointError."""
    if prefix is not None:
        # As mmengine completes it.
        return prefix if prefix.endswith('.') or not prefix else f'{prefix}.'
    prefixes = find_prefixes(state)
    if not prefixes:
        raise CheckpointError(
            f'{checkpoint} has no ViT that is known here: none of its '
            f'{len(state)} keys ends with '
            f'{" or ".join(form.landmark for form in FORMATS)}, the first are '
            f'{", ".join(list(state)[:3])}'
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f'{checkpoint} has several ViTs, under the prefixes {prefixes}: '
            'choose one with prefix=...'
        )
    return prefixes[0]


def _counted(title: str, names: list[str]) -> str:
    return f' {len(names)} {title} ({first_few(names, 5)})' if names else ''


def first_few(items: list[str], count: int = 3) -> str:
    """A list for a message, cut short."""
    more = f' and {len(items) - count} more' if len(items) > count else ''
    return ', '.join(items[:count]) + more


def first_line(error: Exception) -> str:
    """What an error says, for a message of one line."""
    message = str(error).split('WeightsUnpickler error:')[-1].strip()
    return message.split('\n')[0] or type(error).__name__


def write_weights(state: StateDict, path: str, meta: dict | None = None) -> None:
    """Write weights, whole or not at all.

    Args:
        state (dict[str, Tensor]): The weights.
        path (str): File to write; one that ends with ``.safetensors`` gets
            that format, any other is a checkpoint with a ``state_dict``.
        meta (dict, optional): ``meta`` of such a checkpoint.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tensors of their own: safetensors takes no views of one another.
    state = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }
    draft = path.with_name(f'.tmp-{path.name}')
    if path.suffix == '.safetensors':
        save_file(state, draft, metadata=dict(format='pt'))
    else:
        torch.save(dict(state_dict=state, meta=meta or {}), draft)
    draft.replace(path)
