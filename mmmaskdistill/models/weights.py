"""Weights in: reading checkpoint files safely, fitting them to our ViT."""
import zipfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from .layers import (resize_position_embedding, resize_relative_position_table,
                     table_length)

StateDict = Dict[str, Tensor]
TABLE = 'relative_position_bias_table'
# Learned by pre-training alone, or by the task alone: a checkpoint of the
# other kind does not have them.
OPTIONAL = ('mask_token', 'norm.', 'fc_norm.')


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, unreadable or of another model."""


def read_state_dict(checkpoint: str) -> StateDict:
    """Read a file of weights and nothing else.

    Everything is read with ``weights_only=True``, but for TorchScript
    archives, which ``torch.jit.load`` opens; their code is not called.

    Args:
        checkpoint (str): ``.pth``, ``.pt``, ``.ckpt``, ``.safetensors`` or a
            TorchScript archive such as OpenAI publishes CLIP in; a path, or an
            address that mmengine can read.

    Returns:
        dict[str, Tensor]: The tensors, out of a ``state_dict``, ``model`` or
        ``module`` wrapper if there is one.

    Raises:
        CheckpointError: If there is no such file.
        pickle.UnpicklingError: If the file holds more than tensors and the
            containers known to be harmless.
    """
    path = Path(checkpoint)
    if '://' not in str(checkpoint) and not path.is_file():
        raise CheckpointError(f'checkpoint {checkpoint!r} does not exist')
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
        return load_file(path)
    if _is_torchscript(path):
        return torch.jit.load(path, map_location='cpu').state_dict()
    state = CheckpointLoader.load_checkpoint(str(checkpoint), 'cpu')
    for wrapper in ('state_dict', 'model', 'module'):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('constants.pkl') for name in archive.namelist())


def load_backbone(vit: nn.Module,
                  checkpoint: str,
                  prefix: Optional[str] = None) -> List[str]:
    """Start a :class:`MaskDistillViT` from a checkpoint, and say what was done.

    A shared relative position table is expanded to one table a block, tables
    and the position embedding are resized to the ViT's window.

    Args:
        vit (nn.Module): The backbone, changed in place.
        checkpoint (str): See :func:`read_state_dict`.
        prefix (str, optional): Prefix of the backbone's keys in the file.
            Defaults to None, found by looking for ``patch_embed.proj.weight``.

    Returns:
        list[str]: The report, which is logged too.

    Raises:
        CheckpointError: If the file has no ViT, or does not cover the
            backbone.
    """
    state = read_state_dict(checkpoint)
    if prefix is None:
        prefix = _find_prefix(state, checkpoint)
    elif prefix and not prefix.endswith('.'):
        prefix += '.'  # as mmengine completes it
    own = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    own, notes = adapt_to_vit(own, vit)

    wanted = vit.state_dict()
    wrong = [
        f'{k} {tuple(own[k].shape)} for {tuple(v.shape)}'
        for k, v in wanted.items() if k in own and own[k].shape != v.shape
    ]
    missing = [
        k for k in wanted if k not in own and not k.startswith(OPTIONAL)
    ]
    if wrong or missing:
        raise CheckpointError(
            f'{checkpoint} does not fit the backbone: '
            f'{_counted("of another shape", wrong)}'
            f'{_counted("missing", missing)}. Expected a ViT of width '
            f'{vit.embed_dims}, {vit.num_layers} blocks and patches of '
            f'{vit.patch_size} pixels; set arch and patch_size to those of '
            'the checkpoint.')
    fresh = [k for k in wanted if k not in own]
    unused = [k for k in own if k not in wanted]
    vit.load_state_dict({k: own[k] for k in wanted if k in own}, strict=False)

    report = [
        f'backbone from {checkpoint}: {len(wanted) - len(fresh)} of '
        f'{len(wanted)} tensors matched', *notes
    ]
    if fresh:
        report.append(f'left as initialized: {", ".join(fresh)}')
    if unused:
        report.append(f'not used: {", ".join(unused)}')
    print_log('\n  '.join(report), logger='current')
    return report


def adapt_to_vit(state: StateDict,
                 vit: nn.Module) -> Tuple[StateDict, List[str]]:
    """Fit relative position tables and position embedding to a ViT.

    Args:
        state (dict[str, Tensor]): Backbone weights, keys without prefix.
        vit (nn.Module): The :class:`MaskDistillViT` to fit.

    Returns:
        tuple: The fitted weights, and what was done, a line each.
    """
    notes = []
    # A buffer in older checkpoints, computed here.
    state = {
        k: v
        for k, v in state.items() if not k.endswith('relative_position_index')
    }
    state = _place_tables(state, vit, notes)
    window = vit.patch_resolution
    for key in [k for k in state if k.endswith(TABLE)]:
        rows = len(state[key])
        if rows != table_length(window):
            source = _square_window(rows - 3, key)
            state[key] = resize_relative_position_table(
                state[key], source, window)
            notes.append(f'resized {key} from the window {source} to {window}')
    embedding = state.get('pos_embed')
    if embedding is not None and vit.pos_embed is not None and \
            embedding.shape[1] != vit.pos_embed.shape[1]:
        side = round((embedding.shape[1] - 1)**0.5)
        state['pos_embed'] = resize_position_embedding(embedding, (side, side),
                                                       window)
        notes.append(f'resized pos_embed from {(side, side)} to {window}')
    return state, notes


def _place_tables(state: StateDict, vit: nn.Module,
                  notes: List[str]) -> StateDict:
    """Give each block its own copy of a shared table, if it wants one.

    Bias is added to the logits, so a block that had both a shared table and
    its own gets their sum.
    """
    shared_key = f'rel_pos_bias.{TABLE}'
    if shared_key not in state or vit.rel_pos_bias is not None:
        return state
    shared = state.pop(shared_key)
    if vit.blocks[0].attn.window is None:
        notes.append(f'dropped {shared_key}: the backbone has no relative '
                     'position bias')
        return state
    for i in range(len(vit.blocks)):
        key = f'blocks.{i}.attn.{TABLE}'
        state[key] = shared + state[key] if key in state else shared.clone()
    notes.append(f'expanded {shared_key} to one table for each of '
                 f'{len(vit.blocks)} blocks')
    return state


def _square_window(offsets: int, key: str) -> Tuple[int, int]:
    side = (round(offsets**0.5) + 1) // 2
    if (2 * side - 1)**2 != offsets:
        raise CheckpointError(
            f'{key} has {offsets} offsets, which no square window has: cannot '
            'tell what to resize it from')
    return side, side


def _find_prefix(state: StateDict, checkpoint: str) -> str:
    landmark = 'patch_embed.proj.weight'
    prefixes = sorted(k[:-len(landmark)] for k in state if k.endswith(landmark))
    if not prefixes:
        raise CheckpointError(
            f'{checkpoint} has no ViT of the BEiT family: none of its '
            f'{len(state)} keys ends with {landmark}, the first are '
            f'{", ".join(list(state)[:3])}')
    if len(prefixes) > 1:
        raise CheckpointError(
            f'{checkpoint} has several ViTs, under the prefixes {prefixes}: '
            'choose one with prefix=...')
    return prefixes[0]


def _counted(title: str, names: List[str]) -> str:
    return f' {len(names)} {title} ({first_few(names, 5)})' if names else ''


def first_few(items: List[str], count: int = 3) -> str:
    """A list for a message, cut short."""
    more = f' and {len(items) - count} more' if len(items) > count else ''
    return ', '.join(items[:count]) + more
