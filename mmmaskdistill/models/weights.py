"""Read checkpoint files safely, fit weights to a backbone, and write weights."""

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
# Parts of a ViT that a checkpoint may lack: only pre-training or only a downstream task
# learns them, so a checkpoint of the other kind does not have them.
OPTIONAL = ('mask_token', 'norm.', 'fc_norm.')
# Parts that change the features of a ViT. If a checkpoint has one of them, the backbone
# must have it too.
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
# Optional parts of a ViT: a substring of their keys, the backbone's argument for them,
# and its value for a ViT without the part and for one with it.
CHOICES = (
    ('gamma_1', 'layer_scale_init_value', '0', '0.1'),
    (f'attn.{TABLE}', 'use_rel_pos_bias', 'False', 'True'),
    (f'rel_pos_bias.{TABLE}', 'use_shared_rel_pos_bias', 'False', 'True'),
    ('pos_embed', 'use_abs_pos_emb', 'False', 'True'),
)


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def _load_safetensors(filename: str, map_location: Any = 'cpu') -> StateDict:
    """Read a safetensors file for ``load_from`` and mmengine's other loaders.

    mmengine passes ``map_location`` to every loader. The tensors are always on the CPU.
    """
    return load_file(filename)


def read_checkpoint(checkpoint: str, trust_checkpoint: bool = False) -> Any:
    """Read everything that a checkpoint file holds.

    Unless it is trusted, a file cannot run code: pickles are read with
    ``weights_only=True`` and an allow-list, and from TorchScript archives only the
    tensors are read.

    Args:
        checkpoint (str): Path of the file, or an address that mmengine can read. The
            file is a ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors`` file or a
            TorchScript archive, the format in which OpenAI publishes CLIP.
        trust_checkpoint (bool): Whether to read a pickle that holds more than tensors
            and the containers known to be harmless. Such a file can run any code that
            its author put into it. Defaults to False.

    Returns:
        Any: The content of the file, with its tensors on the CPU.

    Raises:
        CheckpointError: If the file does not exist, cannot be read, or holds more than
            tensors and is not trusted.
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
                f'{refused[1]}, and reading anything but tensors could run code. Ask '
                'its author for a .safetensors file. If you trust the author, set '
                "trust_checkpoint=True in the backbone's init_cfg, or pass "
                '--trust-checkpoint to a converter'
            ) from error
        raise CheckpointError(
            f'checkpoint {checkpoint!r} cannot be read '
            f'({first_line(error)}): it is damaged, is not a checkpoint, or cannot be '
            'reached. Download or copy it again'
        ) from error


def read_state_dict(
    checkpoint: str, map_location: str = 'cpu', trust_checkpoint: bool = False
) -> StateDict:
    """Read only the named tensors of a checkpoint file.

    Args:
        checkpoint (str): See :func:`read_checkpoint`.
        map_location (str): Device of the tensors. Defaults to ``'cpu'``.
        trust_checkpoint (bool): See :func:`read_checkpoint`.

    Returns:
        dict[str, Tensor]: The tensors, see :func:`named_tensors`.

    Raises:
        CheckpointError: If the file cannot be read or holds no weights.
    """
    content = read_checkpoint(checkpoint, trust_checkpoint)
    tensors = named_tensors(content)
    if not tensors:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} holds no weights, only a '
            f'{type(content).__name__}: expected a dict of named tensors, or one under '
            "the key 'state_dict', 'model' or 'module'"
        )
    return {key: tensor.to(map_location) for key, tensor in tensors.items()}


def named_tensors(content: Any) -> StateDict:
    """Extract the named tensors from the content of a checkpoint.

    Args:
        content (Any): Content of the checkpoint. The tensors may be in a dict under the
            key ``state_dict``, ``model`` or ``module``, and in nested ones.

    Returns:
        dict[str, Tensor]: The tensors, without the prefix ``module.`` if all names have
        it; empty if there are none.
    """
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
    """Read the content of a file or an address in the way that its format needs."""
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
    # Training scripts save their arguments, a Namespace, next to the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location='cpu', weights_only=not trust)


def _download(address: str) -> Path:
    """Download a file into torch's cache, completely or not at all.

    Only rank 0 downloads, unless other ranks do not see its cache.
    """
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(address).path).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if get_rank() == 0 and not path.exists():
            torch.hub.download_url_to_file(address, str(path), progress=False)
    finally:
        barrier()
    if not path.exists():  # This rank is on another machine than rank 0.
        torch.hub.download_url_to_file(address, str(path), progress=False)
    return path


def load_backbone(
    vit: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str = 'cpu',
    trust_checkpoint: bool = False,
) -> list[str]:
    """Load a checkpoint into a :class:`MaskDistillViT` and report what was loaded.

    The formats of :mod:`.checkpoint_formats` are recognized by their keys. A shared
    relative position table is copied to every block if each block has its own table.
    Tables and the position embedding are resized to the backbone's patch grid.

    Args:
        vit (nn.Module): The backbone, changed in place.
        checkpoint (str): See :func:`read_checkpoint`.
        prefix (str, optional): Prefix of the backbone's keys in the file. Defaults to
            None: it is found by looking for the patch embedding.
        map_location (str): Device of the tensors. Defaults to ``'cpu'``.
        trust_checkpoint (bool): See :func:`read_checkpoint`.

    Returns:
        list[str]: The lines of the report, which is also logged.

    Raises:
        CheckpointError: If the file cannot be read, has no ViT or several, or its ViT
            does not fit the backbone.
    """
    state = read_state_dict(checkpoint, map_location, trust_checkpoint)
    own, report = fit_to_vit(state, vit, checkpoint, prefix)
    vit.load_state_dict(own, strict=False)
    print_log('\n  '.join(report), logger='current')
    return report


def fit_to_vit(
    state: StateDict, vit: nn.Module, checkpoint: str, prefix: str | None = None
) -> tuple[StateDict, list[str]]:
    """Find the ViT in a checkpoint and fit its tensors to a backbone.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.
        vit (nn.Module): The :class:`MaskDistillViT` to fit.
        checkpoint (str): The checkpoint's name, for messages.
        prefix (str, optional): See :func:`load_backbone`.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The tensors for the backbone under its own
        names, and the lines of a report.

    Raises:
        CheckpointError: If the checkpoint has no ViT or several, or its ViT does not
            fit the backbone.
    """
    prefix = find_prefix(state, checkpoint, prefix)
    state = tensors_under(prefix, state)
    form = find_format(state)
    own, notes = adapt_to_vit(state, vit)
    wanted = vit.state_dict()
    _check_fit(own, wanted, vit, checkpoint)
    fresh = [k for k in wanted if k not in own]
    report = [
        f'backbone from {checkpoint}, {form.name if form else "unknown"} format, '
        f'prefix {prefix!r}: {len(wanted) - len(fresh)} of {len(wanted)} '
        'tensors matched',
        *notes,
    ]
    if fresh:
        report.append(f'left as initialized: {", ".join(fresh)}')
    report += describe_others([k for k in own if k not in wanted])
    return {k: own[k] for k in wanted if k in own}, report


def _check_fit(own: StateDict, wanted: StateDict, vit: nn.Module, checkpoint: str):
    """Refuse weights with which the backbone would not have the checkpoint's features.

    Raises:
        CheckpointError: If tensors have another shape or are missing, or if the
            backbone lacks essential parts of the checkpoint. The message names the
            arguments to change.
    """
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
    problems = [
        f'{len(names)} tensors {problem} ({first_few(names, 5)})'
        for problem, names in (
            ('of another shape', wrong),
            ('missing from the checkpoint', missing),
            ('that the backbone does not have', left_over),
        )
        if names
    ]
    raise CheckpointError(
        f'{checkpoint} does not fit the backbone: {", ".join(problems)}. The backbone '
        f'is a ViT of width {vit.embed_dims} with {vit.num_layers} blocks and patches '
        f'of {vit.patch_size} pixels; set '
        f'{", ".join(settings) or "arch and patch_size"} to match the checkpoint.'
    )


def adapt_to_vit(state: StateDict, vit: nn.Module) -> tuple[StateDict, list[str]]:
    """Fit names, relative position tables and position embedding to a ViT.

    Args:
        state (dict[str, Tensor]): Weights of a backbone, keys without prefix.
        vit (nn.Module): The :class:`MaskDistillViT` to fit.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The fitted weights, and one line for every
        change.

    Raises:
        CheckpointError: If a tensor must be resized but its patch grid is not square,
            because height and width are then unknown.
    """
    notes = []
    state = _place_tables(to_our_names(state, notes), vit, notes)
    window = vit.grid
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
    """Give each block a copy of a shared table if the ViT has a table for each block.

    Biases are added to the logits, so if the checkpoint has both a shared table and a
    table for each block, a block gets their sum.
    """
    shared_key = f'rel_pos_bias.{TABLE}'
    if (
        shared_key not in state
        or vit.rel_pos_bias is not None
        or vit.blocks[0].attn.table_grid is None
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
    """Find the square grid that has a number of patches.

    Args:
        patches (int): Number of patches or offsets.
        what (str): What has them, for the message.

    Returns:
        tuple[int, int]: Height and width of the grid.

    Raises:
        CheckpointError: If no square grid has this number.
    """
    side = math.isqrt(max(patches, 0))
    if side**2 != patches:
        raise CheckpointError(
            f'{what} is for {patches} patches or offsets, which do not form a square, '
            'so the patch grid to resize it from is unknown: set img_size to that of '
            'the checkpoint'
        )
    return side, side


def square_window(offsets: int, what: str) -> tuple[int, int]:
    """Find the square window that has a number of offsets between patches.

    Args:
        offsets (int): Number of offsets, the rows of the relative position table
            without those of the class token.
        what (str): What has them, for the message.

    Returns:
        tuple[int, int]: Patch grid (h, w).

    Raises:
        CheckpointError: If no square window has this number.
    """
    side, _ = square_grid(offsets, what)
    return (side + 1) // 2, (side + 1) // 2


def find_prefix(state: StateDict, checkpoint: str, prefix: str | None = None) -> str:
    """Find the prefix of the ViT in a checkpoint.

    Args:
        state (dict[str, Tensor]): All tensors of the checkpoint.
        checkpoint (str): The checkpoint's name, for messages.
        prefix (str, optional): A prefix to use in any case, with or without its final
            dot. Defaults to None: the only ViT's prefix is found.

    Returns:
        str: The prefix, which is empty or ends with a dot.

    Raises:
        CheckpointError: If no prefix is given and the checkpoint has no ViT or several.
    """
    if prefix is not None:
        # mmengine adds a missing dot, too.
        return prefix if prefix.endswith('.') or not prefix else f'{prefix}.'
    prefixes = find_prefixes(state)
    if not prefixes:
        raise CheckpointError(
            f'{checkpoint} has no ViT in a known format: none of its {len(state)} keys '
            f'ends with {" or ".join(form.landmark for form in FORMATS)}; the first '
            f'keys are {", ".join(list(state)[:3])}'
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f'{checkpoint} has several ViTs, under the prefixes {prefixes}: '
            'choose one with prefix=...'
        )
    return prefixes[0]


def first_few(items: list[str], count: int = 3) -> str:
    """Join the first items of a list for a message, and count the others.

    Args:
        items (list[str]): The list.
        count (int): How many items to name. Defaults to 3.

    Returns:
        str: Such as ``'a, b, c and 2 more'``.
    """
    more = f' and {len(items) - count} more' if len(items) > count else ''
    return ', '.join(items[:count]) + more


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or else the name of its type.

    Args:
        error (Exception): The error. What torch puts before the message of its
            ``WeightsUnpickler`` is left out.
    """
    message = str(error).split('WeightsUnpickler error:')[-1].strip()
    return message.split('\n')[0] or type(error).__name__


def write_weights(state: StateDict, path: str, meta: dict | None = None) -> None:
    """Write weights to a file, completely or not at all.

    Args:
        state (dict[str, Tensor]): The weights.
        path (str): File to write; its folder is created. A file that ends with
            ``.safetensors`` gets that format, any other one becomes a checkpoint with a
            ``state_dict``.
        meta (dict, optional): The ``meta`` of a checkpoint with a ``state_dict``.
            Defaults to None, an empty dict.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every tensor is copied, because safetensors refuses tensors that share memory.
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
