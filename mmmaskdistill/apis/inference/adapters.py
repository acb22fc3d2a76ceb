"""Merge the adapters of mmpretrain's ``LoRAModel`` into the weights that they adapt.

A checkpoint of a run with ``LoRAModel`` holds the adapters and what is around them, but
not the frozen weights: these are in the file from which the run started.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.models.peft import LoRAModel
from mmpretrain.models.peft.lora import LoRALinear
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError, first_line
from mmmaskdistill.models.checkpoints import (
    FitsCheckpoints,
    check_backbone,
    fit,
    load_backbone,
    read_weights,
    select_under,
)
from mmmaskdistill.models.checkpoints.files import Weights
from mmmaskdistill.registry import MODELS

from .building import without_start_weights
from .sources import Trained, find_trained

NAME = LoRAModel.__name__
# What the names of an adapter's tensors contain, in mmpretrain and in peft.
ADAPTER = '.lora_'


def merge_adapters(trained: Trained) -> Trained:
    """Merge the adapters of a model, if it has any, so that it becomes a plain one.

    Args:
        trained (Trained): The config and the weights.

    Returns:
        Trained: The same model without adapters: the config of each ``LoRAModel`` is
        replaced by that of its module, and the weights are complete.

    Raises:
        CheckpointError: If the adapters are not in the checkpoint, or the weights that
            they adapt are not where the run took them from.
    """
    found = list(_adapted(trained.config.get('model')))
    if not found:
        return trained
    config, tensors = Config(trained.config.to_dict()), dict(trained.tensors)
    for path, settings in found:
        prefix = f'{path}.'
        adapters = {
            key[len(prefix) + len('module.') :]: tensors.pop(key)
            for key in list(tensors)
            if key.startswith(f'{prefix}module.')
        }
        module = _merged(settings, adapters, trained, f'model.{path}')
        tensors.update({prefix + k: v for k, v in module.state_dict().items()})
        config.merge_from_dict({f'model.{path}': {'_delete_': True, **settings.module}})
    return trained._replace(config=config, tensors=tensors)


def merge_in(weights: Weights, checkpoint: str, trust_checkpoint: bool) -> Weights:
    """Merge the adapters in the weights of a checkpoint, if there are any.

    Args:
        weights (Weights): The content of the checkpoint.
        checkpoint (str): The checkpoint.
        trust_checkpoint (bool): See :func:`.load_model`.

    Returns:
        Weights: The weights without adapters, and a config without them.

    Raises:
        CheckpointError: See :func:`merge_adapters`.
    """
    if not any(ADAPTER in key for key in weights.tensors):
        return weights
    trained = merge_adapters(find_trained(checkpoint, None, trust_checkpoint))
    meta = {**weights.meta, 'cfg': trained.config.pretty_text}
    return Weights(trained.tensors, meta)


def _adapted(node: Any, path: str = '') -> Iterator[tuple[str, ConfigDict]]:
    """Yield the options and the configs of the parts that have adapters."""
    if not isinstance(node, dict):
        return
    kind = node.get('type')
    if kind is LoRAModel or str(kind).rpartition('.')[2] == NAME:
        yield path, node
        return
    for key, value in node.items():
        yield from _adapted(value, f'{path}.{key}' if path else str(key))


def _merged(
    settings: ConfigDict, adapters: dict[str, Tensor], trained: Trained, option: str
) -> nn.Module:
    """Build the module of a ``LoRAModel`` with its adapters merged into it."""
    name = repr(trained.checkpoint)
    plain = without_start_weights(settings)
    with trained.building(plain):
        try:
            module = MODELS.build(deepcopy(plain.module))
            wrapper = MODELS.build(plain).module
        except CheckpointError:
            raise
        except Exception as error:
            raise ConfigError(
                f'{option} in the config of {name} cannot be built: '
                f'{type(error).__name__}: {first_line(error)}'
            ) from error
    shapes = {k: v.shape for k, v in wrapper.state_dict().items() if ADAPTER in k}
    if {k: v.shape for k, v in adapters.items() if ADAPTER in k} != shapes:
        raise CheckpointError(
            f'checkpoint {name} does not have the adapters (LoRA) of {option} in its '
            'config: give a checkpoint that this config trained. What publish_model.py '
            'or export.py wrote has none any longer, and needs no config'
        )
    _load_start(module, settings.module, trained, option)
    wrapper.load_state_dict(adapters, strict=False)
    with torch.no_grad():
        for path, layer in wrapper.named_modules():
            if isinstance(layer, LoRALinear):
                change = layer.lora_up.weight @ layer.lora_down.weight * layer.scaling
                module.get_submodule(path).weight += change
    return module


def _load_start(module: nn.Module, settings: ConfigDict, trained: Trained, option: str):
    """Load the weights from which the run started, and which it did not change."""
    start = settings.get('init_cfg') or {}
    start = start if isinstance(start, (list, tuple)) else [start]
    start = next((entry for entry in start if entry.get('checkpoint')), None)
    explanation = (
        f'checkpoint {trained.checkpoint!r} holds the adapters (LoRA) of {option} '
        'without the weights that they adapt'
    )
    if start is None:
        raise CheckpointError(
            f'{explanation}, and its config names no file of these in '
            f'{option}.module.init_cfg: give a config that does'
        )
    checkpoint, prefix = start['checkpoint'], start.get('prefix')
    if '://' in checkpoint and not trained.trusted:
        raise CheckpointError(
            f'{explanation}. They are at {checkpoint!r}, and nothing is downloaded for '
            'a checkpoint: give the config as well (load_model(CONFIG, CHECKPOINT), or '
            '--config CONFIG)'
        )
    try:
        if isinstance(module, FitsCheckpoints):
            options = {'prefix': prefix, 'inflate': start.get('inflate', False)}
            load_backbone(module, checkpoint, **options)
            return
        tensors = read_weights(checkpoint).tensors
        if prefix is not None:
            tensors, _ = select_under(prefix, tensors, checkpoint)
        fitted, report = fit(module, tensors)
        check_backbone(report, checkpoint, module)
        module.load_state_dict(fitted, strict=False)
    except CheckpointError as error:
        raise CheckpointError(
            f'{explanation}: {error}. If they are elsewhere now, give a config whose '
            f'{option}.module.init_cfg says where (load_model(CONFIG, CHECKPOINT), or '
            '--config CONFIG)'
        ) from error
