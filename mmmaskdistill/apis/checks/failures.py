"""Explain errors of torch that say what is wrong with data or settings in its terms."""

import re
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from .heads import name_of

QUOTES = '"\''
CHECK = 'tools/analysis_tools/check_data.py CONFIG looks at all files'


def explain_failure(error: Exception, cfg: dict) -> str | None:
    """Say in one line what the user can do about an error that ended a training.

    What can be known before the training is found by :func:`.check`. This is for the
    rest, such as the layers of other libraries, and labels of which only a sample was
    read.

    Args:
        error (Exception): What training raised.
        cfg (dict): The config.

    Returns:
        str | None: The message, or None if the error is of another kind.
    """
    text = str(error)
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    if 'Expected more than 1 value per channel' in text:
        return (
            f'batch norm cannot normalize a single value (train_dataloader.batch_size='
            f'{batch} for each process, {text.strip()}): set train_dataloader.'
            'batch_size=2 or more and drop_last=True, or a norm_cfg without batch norm '
            "such as dict(type='GN', num_groups=32)"
        )
    found = re.search(r'Target (-?\d+) is out of bounds', text)
    if found:
        return (
            f'a label has the value {found[1]}, which is neither one of the classes of '
            f'a head nor ignored: {CHECK} and names it'
        )
    if 'Class values must be smaller than num_classes' in text:  # one-hot labels
        return (
            'a label is neither one of the classes of a head nor ignored: '
            f'{CHECK} and names it'
        )
    found = re.search(r'stack expects each tensor to be equal size.*', text)
    if found:
        return (
            f'the images or labels of a batch cannot be stacked ({found[0]}): crop or '
            f'resize them to one size, or set batch_size=1. {CHECK}'
        )
    found = re.search(
        r'weight of size \[\d+, (\d+).*expected input.* got (\d+) channels', text
    )
    if found:
        return (
            f'a layer is made for {found[1]} channels and gets {found[2]}: set '
            'in_channels of the head or neck to the width of the maps that its '
            'in_index names'
        )
    if isinstance(error, IndexError) and _passes(error, '_transform_inputs'):
        return (
            'a head reads a map that is not there: its in_index counts the maps of '
            'the backbone or neck from 0, and the backbone returns one for each of '
            'its out_indices'
        )
    found = re.search(
        r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text
    )
    if found:
        return _unexpected(*found.groups(), cfg)
    found = re.search(r'(\S+) is not in the (.+?) registry', text)
    if found:
        return (
            f'the config names {found[1].strip(QUOTES)}, which is not in the '
            f"{found[2]} registry: correct the name, add its scope such as 'mmseg.' or "
            "'mmpretrain.', or name its module in custom_imports=dict(imports=[...])"
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU's memory is not enough ({text.splitlines()[0]}): set a smaller "
            f'train_dataloader.batch_size (it is {batch}), a smaller crop, or '
            'model.backbone.with_cp=True'
        )
    return None


def _unexpected(kind: str, key: str, cfg: dict) -> str:
    """Say where a config gives a class an argument that it does not take."""
    if kind == 'BaseModule':  # in place of a class of mmdet that is missing
        return (
            f'a part of the model passes {key!r} on to BaseModule, which does not take '
            "it: it needs mmdet, as mmseg's Mask2FormerHead does (pip install mmdet), "
            'or its config has an argument that it does not know'
        )
    places = [place for place in _places(dict(cfg.items()), kind, key, '') if place]
    where = f' ({places[0]}.{key})' if places else ''
    return (
        f'{kind} does not take {key!r}{where}: remove it. If a base config sets it for '
        f'another type, add _delete_=True to your dict with type={kind!r}, which then '
        'replaces that of the base config'
    )


def _places(node: Any, kind: str, key: str, option: str) -> Iterator[str]:
    """Yield the options of a config that are of a type and have a key."""
    if isinstance(node, dict):
        if node.get('type') and name_of(node['type']) == kind and key in node:
            yield option
        children = node.items()
    else:
        children = enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from _places(child, kind, key, f'{option}.{name}'.lstrip('.'))


def _passes(error: Exception, function: str) -> bool:
    """Tell whether an error was raised inside a function of this name."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == function for frame, _ in frames)
