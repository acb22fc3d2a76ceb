"""Fit the tensors of a checkpoint to a model.

This is the only place where tensors are renamed, resized, copied to several blocks or
left out. Nothing here reads a file, changes a model or logs: :func:`fit` takes a model
and tensors and returns tensors and a report.
"""

import math
import re
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError

from ..layers import (
    NUM_TOKEN_ROWS,
    resize_position_embedding,
    resize_relative_position_table,
    table_length,
)
from .formats import StateDict, plain_name, to_our_names

# The names that timm, DINOv2, DINOv3 and transformers give to register tokens.
REGISTERS = re.compile(r'(^|\.)(reg_token|register_tokens?|storage_tokens?)$')
# Other parts that this ViT cannot have, and what they are
OTHER_PARTS = (
    (re.compile(r'^(norm_pre|pre_norm|ln_pre)\.'), 'a norm before the blocks, as CLIP'),
    (re.compile(r'\.attn\.[qk]_norm\.'), 'norms of queries and keys'),
    (re.compile(r'\.mlp\.(w12|fc1_g)\.'), 'a gated MLP (SwiGLU)'),
)

TABLE = 'relative_position_bias_table'
SHARED_TABLE = f'rel_pos_bias.{TABLE}'
# Batch norm only counts batches in these tensors, and older checkpoints do not have
# them.
COUNTER = '.num_batches_tracked'


class Report(NamedTuple):
    """What became of a checkpoint's tensors when they were fitted to a model.

    All names are those of the model.

    Attributes:
        wanted (dict[str, torch.Size]): Shapes of all tensors of the model.
        missing (list[str]): Tensors of the model that the checkpoint does not have.
        misshapen (dict[str, Tensor]): Tensors of the checkpoint that were left out
            because the model's have another shape.
        unused (dict[str, Tensor]): Tensors of the checkpoint that were left out because
            the model does not have them.
        notes (list[str]): One line for every change of the tensors.
        parts (list[str]): Prefixes of the backbones that fit tensors to themselves.
    """

    wanted: dict[str, torch.Size]
    missing: list[str]
    misshapen: StateDict
    unused: StateDict
    notes: list[str]
    parts: list[str]

    @property
    def matched(self) -> int:
        """Number of the model's tensors that the checkpoint has."""
        return len(self.wanted) - len(self.missing) - len(self.misshapen)


class FitsCheckpoints:
    """Base class of a backbone that fits foreign tensors to itself.

    Attributes:
        essential (tuple[str, ...]): Beginnings of the names of parts that change the
            features. If a checkpoint has one of them, the backbone must have it, too.
        optional (tuple[str, ...]): Beginnings of the names of parts that a checkpoint
            may lack, in addition to :data:`.coverage.OPTIONAL`.
    """

    essential: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def select(
        self, tensors: StateDict, checkpoint: str, prefix: str | None
    ) -> tuple[StateDict, str]:
        """Select the backbone's tensors in a checkpoint.

        Args:
            tensors (dict[str, Tensor]): All tensors of the checkpoint.
            checkpoint (str): The checkpoint's name, for messages.
            prefix (str, optional): Prefix of the backbone's names, with or without its
                final dot. None means that the backbone's own rule finds it.

        Returns:
            tuple[dict[str, Tensor], str]: The backbone's tensors, names without the
            prefix, and a description of where they were found.

        Raises:
            CheckpointError: If the checkpoint has no such backbone or several.
        """
        raise NotImplementedError

    def adapt(self, tensors: StateDict) -> tuple[StateDict, list[str]]:
        """Give tensors the backbone's names and sizes. The backbone does not change.

        Args:
            tensors (dict[str, Tensor]): The backbone's tensors in a checkpoint, names
                without prefix.

        Returns:
            tuple[dict[str, Tensor], list[str]]: The tensors under the backbone's names,
            those without a place in the backbone among them, and one line for every
            change.

        Raises:
            CheckpointError: If a tensor cannot be resized.
        """
        raise NotImplementedError

    def advise(self, given: set[str], wanted: set[str]) -> str:
        """Say how to make the backbone fit a checkpoint.

        Args:
            given (set[str]): Names of the checkpoint's tensors after :meth:`adapt`.
            wanted (set[str]): Names of the backbone's tensors.

        Returns:
            str: A sentence.
        """
        raise NotImplementedError


def fit(model: nn.Module, tensors: StateDict) -> tuple[StateDict, Report]:
    """Fit the tensors of a checkpoint to a model.

    The model's backbones that are :class:`FitsCheckpoints` rename and resize their
    tensors. The tensors of modules of other libraries stay as they are, since their own
    loading hooks change them when they are loaded; the report says what these hooks
    will make of them.

    Args:
        model (nn.Module): The model; not changed.
        tensors (dict[str, Tensor]): The checkpoint's tensors; not changed.

    Returns:
        tuple[dict[str, Tensor], Report]: The tensors that ``model.load_state_dict``
        takes without complaint, and a report of all others.

    Raises:
        CheckpointError: If a tensor cannot be fitted.
    """
    shapes = shapes_of(model)
    # Parts of a model may be compiled, which changes the names of their tensors.
    names = {plain_name(key): key for key in shapes}
    given = {plain_name(key): tensor for key, tensor in tensors.items()}
    fitted, misshapen, unused, notes, parts = {}, {}, {}, [], []
    for prefix, part in _fitting_parts(model):
        start = plain_name(prefix)
        own = {
            key[len(start) :]: given.pop(key)
            for key in list(given)
            if key.startswith(start)
        }
        own, changes = part.adapt(own)
        for key, tensor in own.items():
            name = names.get(start + key, prefix + key)
            if name not in shapes:
                unused[name] = tensor
            elif tensor.shape != shapes[name]:
                misshapen[name] = tensor
            else:
                fitted[name] = tensor
        notes += changes
        parts.append(prefix)
    foreign = {names.get(key, key): tensor for key, tensor in given.items()}
    missing = [key for key in shapes if key not in fitted]
    if not isinstance(model, FitsCheckpoints):
        lacking, other_shape, not_wanted = _after_hooks(model, {**fitted, **foreign})
        missing = [key for key in missing if key in lacking]
        misshapen |= other_shape
        unused |= not_wanted
    fitted |= {
        key: tensor
        for key, tensor in foreign.items()
        if key not in misshapen and key not in unused
    }
    return fitted, Report(
        wanted={k: shape for k, shape in shapes.items() if not k.endswith(COUNTER)},
        missing=[k for k in missing if k not in misshapen and not k.endswith(COUNTER)],
        misshapen=misshapen,
        unused={k: v for k, v in unused.items() if not k.endswith(COUNTER)},
        notes=notes,
        parts=parts,
    )


def inflate(fitted: StateDict, report: Report) -> tuple[StateDict, Report]:
    """Fit the layer that reads the image to another number of image channels.

    Args:
        fitted (dict[str, Tensor]): The tensors that :func:`fit` returns; not changed.
        report (Report): The report of :func:`fit`.

    Returns:
        tuple[dict[str, Tensor], Report]: The tensors, with the kernels that only had
        another number of input channels, see :func:`inflate_channels`; and a report
        that has a note for each of them.
    """
    fitted, misshapen, notes = dict(fitted), {}, list(report.notes)
    for key, tensor in report.misshapen.items():
        if channels_differ(tensor.shape, report.wanted[key]):
            channels = report.wanted[key][1]
            fitted[key] = inflate_channels(tensor, channels)
            notes.append(
                f'inflated {key} from {tensor.shape[1]} to {channels} channels'
            )
        else:
            misshapen[key] = tensor
    return fitted, report._replace(misshapen=misshapen, notes=notes)


def channels_differ(given: torch.Size, wanted: torch.Size) -> bool:
    """Tell whether two kernels only differ in the number of their input channels.

    Args:
        given (torch.Size): Shape of a tensor of a checkpoint.
        wanted (torch.Size): Shape of the model's tensor.
    """
    return (
        len(given) == len(wanted) == 4
        and given[1] != wanted[1]
        and given[:1] + given[2:] == wanted[:1] + wanted[2:]
    )


def inflate_channels(kernel: Tensor, channels: int) -> Tensor:
    """Fit the kernel of a patch embedding to another number C of image channels.

    The channels of the kernel, such as those of R, G and B, take turns: with C = 4 the
    new channels have the weights of R, G, B and R. A channel that is used n times is
    divided by n. If C is less than the number of the kernel's channels, those that fall
    on the same new channel are added; with C = 1 all of them are. An image whose
    channels are all equal therefore has the same tokens as before.

    Args:
        kernel (Tensor): [D, S, h, w] for images of S channels.
        channels (int): New number C of channels.

    Returns:
        Tensor: [D, C, h, w].
    """
    source = kernel.shape[1]
    if len(kernel) == 1:
        # The color of hidden pixels, and not a kernel, has no sum to keep.
        return kernel[:, [k % source for k in range(channels)]]
    mixing = kernel.new_zeros(source, channels)
    for k in range(max(source, channels)):
        mixing[k % source, k % channels] = 1
    mixing /= mixing.sum(1, keepdim=True)
    return torch.einsum('dshw,sc->dchw', kernel, mixing)


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of the tensors that a model's checkpoints hold.

    Args:
        model (nn.Module): The model.
    """
    return {
        key: tensor.shape
        for key, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }


def _fitting_parts(model: nn.Module) -> Iterator[tuple[str, FitsCheckpoints]]:
    """Yield each backbone that fits tensors to itself, after its prefix."""
    for name, module in model.named_modules():
        if isinstance(module, FitsCheckpoints):
            yield f'{name}.' if name else '', module


class _Loads(nn.Module):
    """Calls ``load_state_dict`` of a model as if this were a forward pass."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tensors: StateDict) -> tuple[list[str], list[str]]:
        """Load tensors and return the missing and the unexpected names."""
        return self.model.load_state_dict(tensors, strict=False)


def _after_hooks(
    model: nn.Module, tensors: StateDict
) -> tuple[set[str], StateDict, StateDict]:
    """Find out what the loading hooks of a model's modules make of tensors.

    Only ``load_state_dict`` knows all of these hooks. It is called while stand-ins
    without memory take the place of the model's parameters and buffers, so that nothing
    is loaded.

    Returns:
        tuple[set[str], dict[str, Tensor], dict[str, Tensor]]: The names that are
        missing, the tensors of another shape and the tensors without a place.
    """
    misshapen = {}

    def take_out_misshapen(module: nn.Module, state: StateDict, prefix: str, *args):
        # torch would raise an error for the first of them.
        for name, wanted in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ):
            given = state.get(prefix + name)
            if isinstance(given, Tensor) and given.shape != wanted.shape:
                misshapen[prefix + name] = state.pop(prefix + name)

    stand_ins = {
        f'model.{key}': torch.empty_like(tensor, device='meta')
        for key, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    # Hooks that are registered last run last.
    handles = [
        module.register_load_state_dict_pre_hook(take_out_misshapen)
        for module in model.modules()
    ]
    try:
        with warnings.catch_warnings():
            # torch warns that nothing is loaded into tensors without memory.
            warnings.filterwarnings('ignore', message='.*meta parameter')
            missing, unexpected = torch.func.functional_call(
                _Loads(model), stand_ins, (tensors,), tie_weights=False
            )
    finally:
        for handle in handles:
            handle.remove()
    # A hook may have given a tensor the name that has no place.
    nothing = torch.empty(0)
    return set(missing), misshapen, {k: tensors.get(k, nothing) for k in unexpected}


def adapt_to_vit(
    tensors: StateDict, shapes: dict[str, torch.Size], grid: tuple[int, int]
) -> tuple[StateDict, list[str]]:
    """Fit names, relative position tables and the position embedding to a ViT.

    The formats of :mod:`.formats` are recognized by their names. A shared relative
    position table is copied to every block if each block has its own table. Tables and
    the position embedding are resized to the ViT's patch grid.

    Args:
        tensors (dict[str, Tensor]): Weights of a backbone, names without prefix.
        shapes (dict[str, torch.Size]): Shapes of the ViT's tensors.
        grid (tuple[int, int]): The ViT's patch grid (h, w).

    Returns:
        tuple[dict[str, Tensor], list[str]]: The fitted weights, and one line for every
        change.

    Raises:
        CheckpointError: If the weights have parts that this ViT cannot have, such as
            register tokens, are incomplete, or must be resized from a patch grid that
            is not square, because height and width are then unknown.
    """
    _refuse_other_kinds(tensors)
    shapes = {plain_name(key): shape for key, shape in shapes.items()}
    notes = []
    tensors = to_our_names(tensors, notes)
    for key, tensor in tensors.items():
        dims = 3 if key == 'pos_embed' else 2 if key.endswith(TABLE) else tensor.ndim
        if tensor.ndim != dims:
            raise CheckpointError(
                f'{key} of the checkpoint has the shape {tuple(tensor.shape)}: '
                f'expected {dims} dimensions'
            )
    tensors = _place_tables(tensors, shapes, notes)
    resized = {}
    for key in [key for key in tensors if key.endswith(TABLE)]:
        rows = len(tensors[key])
        if rows != table_length(grid):
            source = square_grid_of_table(rows, key, SET_IMG_SIZE)
            tensors[key] = resize_relative_position_table(tensors[key], source, grid)
            resized[source] = resized.get(source, 0) + 1
    notes += [
        f'resized {count} relative position tables from the patch grid {source} to '
        f'{grid}'
        for source, count in resized.items()
    ]
    embedding = tensors.get('pos_embed')
    if (
        embedding is not None
        and 'pos_embed' in shapes
        and embedding.shape[1] != shapes['pos_embed'][1]
    ):
        source = square_grid(embedding.shape[1] - 1, 'pos_embed', SET_IMG_SIZE)
        tensors['pos_embed'] = resize_position_embedding(embedding, source, grid)
        notes.append(f'resized pos_embed from the patch grid {source} to {grid}')
    return tensors, notes


def _refuse_other_kinds(tensors: StateDict) -> None:
    """Refuse the weights of ViTs that no setting turns this one into.

    Otherwise the advice would be to change a setting, and the next answer a refusal.
    """
    registers = [key for key in tensors if REGISTERS.search(key)]
    if registers:
        raise CheckpointError(
            f'the checkpoint has register tokens ({registers[0]}), which change the '
            'features of all patches, and this ViT has none: give the checkpoint of a '
            'model without registers'
        )
    for pattern, part in OTHER_PARTS:
        found = next((key for key in tensors if pattern.search(key)), None)
        if found:
            raise CheckpointError(
                f'the checkpoint has {part} ({found}), and this ViT has none: give '
                'the checkpoint of a model without it'
            )
    for key, inner in tensors.items():
        outer = tensors.get(key.replace('.fc1.', '.fc2.'))
        gated = key.endswith('.mlp.fc1.weight') and outer is not None
        if gated and inner.ndim == 2 == outer.ndim and len(inner) == 2 * outer.shape[1]:
            raise CheckpointError(
                f'the checkpoint has a gated MLP (SwiGLU, {key}), and this ViT has a '
                'plain one: give the checkpoint of a model without it'
            )
    whole = 'pos_embed' in tensors and any('patch_embed.' in key for key in tensors)
    if whole and not any(key.endswith('cls_token') for key in tensors):
        raise CheckpointError(
            'the checkpoint has no class token (cls_token), as SigLIP has none, and '
            'this ViT has one: give the checkpoint of a model with a class token'
        )


def _place_tables(
    tensors: StateDict, shapes: dict[str, torch.Size], notes: list[str]
) -> StateDict:
    """Give each block a copy of a shared table if the ViT has a table for each block.

    Biases are added to the logits, so if the checkpoint has both a shared table and a
    table for each block, a block gets their sum.
    """
    own = [
        key for key in shapes if key.startswith('blocks.') and key.endswith(f'.{TABLE}')
    ]
    if SHARED_TABLE not in tensors or SHARED_TABLE in shapes or not own:
        return tensors
    tensors = dict(tensors)
    shared = tensors.pop(SHARED_TABLE)
    for key in own:
        table = tensors.get(key)
        if table is not None and table.shape != shared.shape:
            raise CheckpointError(
                f'{key} of the checkpoint has the shape {tuple(table.shape)} and '
                f'{SHARED_TABLE} {tuple(shared.shape)}: expected the same shape'
            )
        tensors[key] = shared.clone() if table is None else shared + table
    notes.append(f'expanded {SHARED_TABLE} to one table for each of {len(own)} blocks')
    return tensors


SET_IMG_SIZE = (
    'so the patch grid to resize it from is unknown: set img_size to that of the '
    'checkpoint'
)


def square_grid(patches: int, what: str, advice: str) -> tuple[int, int]:
    """Find the square patch grid that has a number of patches.

    Args:
        patches (int): Number of patches.
        what (str): What has them, for the message.
        advice (str): What follows from a grid that is not square, for the message.

    Returns:
        tuple[int, int]: Patch grid (h, w).

    Raises:
        CheckpointError: If no square grid has this number.
    """
    side = math.isqrt(max(patches, 0))
    if side**2 != patches:
        raise CheckpointError(
            f'{what} is for {patches} patches, which do not form a square, {advice}'
        )
    return side, side


def square_grid_of_table(rows: int, what: str, advice: str) -> tuple[int, int]:
    """Find the square patch grid that a relative position table is made for.

    Args:
        rows (int): Number of rows of the table.
        what (str): Name of the table, for the message.
        advice (str): What follows from a grid that is not square, for the message.

    Returns:
        tuple[int, int]: Patch grid (h, w).

    Raises:
        CheckpointError: If no square grid has a table of this length.
    """
    side = (math.isqrt(rows) + 1) // 2
    if table_length((side, side)) != rows:
        raise CheckpointError(
            f'{what} has {rows} rows, which are those of no square patch grid, {advice}'
        )
    return side, side


def adapt_to_swin(
    tensors: StateDict, shapes: dict[str, torch.Size], grid: tuple[int, int]
) -> tuple[StateDict, list[str]]:
    """Resize relative position tables and the position embedding to a Swin.

    Both are resized as in mmpretrain's ``SwinTransformer``: the tables to the size of
    the attention windows, the embedding to the patch grid of the first stage.

    Args:
        tensors (dict[str, Tensor]): Weights of a Swin, names without prefix.
        shapes (dict[str, torch.Size]): Shapes of the Swin's tensors.
        grid (tuple[int, int]): Patch grid (h, w) of the Swin's first stage.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The fitted weights, and one line for every
        change.

    Raises:
        CheckpointError: If weights must be resized that do not belong to a square
            window or patch grid.
    """
    tensors, notes, resized = dict(tensors), [], {}
    for key, tensor in tensors.items():
        wanted = shapes.get(key, tensor.shape)
        if tensor.ndim != len(wanted) or tensor.shape[-1] != wanted[-1]:
            continue
        if key.endswith(TABLE) and len(tensor) != wanted[0]:
            source = _square_window(len(tensor), key)
            target = _square_window(wanted[0], key)
            # The class token's rows, which a Swin does not have, are added and removed.
            table = F.pad(tensor, (0, 0, 0, NUM_TOKEN_ROWS))
            table = resize_relative_position_table(table, source, target)
            tensors[key] = table[:-NUM_TOKEN_ROWS]
            resized[source, target] = resized.get((source, target), 0) + 1
        elif key == 'absolute_pos_embed' and tensor.shape[1] != wanted[1]:
            source = square_grid(tensor.shape[1], key, SET_IMG_SIZE)
            embedding = F.pad(tensor, (0, 0, 1, 0))
            tensors[key] = resize_position_embedding(embedding, source, grid)[:, 1:]
            notes.append(f'resized {key} from the patch grid {source} to {grid}')
    notes += [
        f'resized {count} relative position tables from the window {source} to {target}'
        for (source, target), count in resized.items()
    ]
    return tensors, notes


def _square_window(rows: int, key: str) -> tuple[int, int]:
    """Find the square attention window whose table of offsets has a number of rows."""
    side = (math.isqrt(rows) + 1) // 2
    if (2 * side - 1) ** 2 != rows:
        raise CheckpointError(
            f'{key} has {rows} rows, which are those of no square attention window, so '
            'the window to resize it from is unknown: set window_size in stage_cfgs to '
            'that of the checkpoint'
        )
    return side, side


def adapt_to_timm(tensors: StateDict, model: nn.Module) -> StateDict:
    """Give tensors the names and sizes of a timm model, by timm's own rule.

    Args:
        tensors (dict[str, Tensor]): Weights in a format that timm knows for this model.
        model (nn.Module): The timm model.

    Returns:
        dict[str, Tensor]: The weights; unchanged if timm has no rule for the model.
    """
    # timm keeps the rule next to the model's class; some of its files have none.
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    return tensors if convert is None else convert(tensors, model)
