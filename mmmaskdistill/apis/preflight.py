"""Check before training that the files of a config exist and its masks fit."""

import inspect
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS, TRANSFORMS
from mmpretrain.datasets import ImageNet, ImageNet21k
from torch import nn

from mmmaskdistill.datasets.masking import CountedMaskGenerator
from mmmaskdistill.datasets.storage import FOLDERS
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill
from mmmaskdistill.models.checkpoints.files import is_address

from .pipelines import class_name, mask_generator


def check_data(cfg: dict, loaders: Sequence[str]) -> None:
    """Check that the folders and annotation files of data loaders exist.

    Args:
        cfg (dict): The config.
        loaders (Sequence[str]): Names of data loaders, such as
            ``train_dataloader``. Names that the config does not have are
            skipped.

    Raises:
        ConfigError: If a path is missing. The message names the first missing
            path and its option in the config.
    """
    scope = cfg.get('default_scope')
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset')
        for option, path in _data_paths(dataset, f'{loader}.dataset', scope):
            if _is_local(path) and not osp.exists(path):
                raise ConfigError(
                    f'data not found: {path!r} ({option}, from '
                    f'{osp.abspath(osp.curdir)!r}). Put or link the data '
                    f'there, or give its path with --cfg-options '
                    f'{option}=PATH'
                )


def check_weights(cfg: dict) -> None:
    """Check that the files exist whose weights a model starts from.

    Args:
        cfg (dict): The config.

    Raises:
        ConfigError: If a file is missing. The message names the first missing
            file and its option in the config.
    """
    named = list(_checkpoints(cfg.get('model'), 'model'))
    if cfg.get('load_from'):
        named.append(('load_from', cfg['load_from']))
    for option, path in named:
        if not is_address(path) and not osp.isfile(path):
            raise ConfigError(
                f'checkpoint not found: {path!r} ({option}, from '
                f'{osp.abspath(osp.curdir)!r}). Give the path of an existing '
                f'file with --cfg-options {option}=PATH'
            )


def check_masks(cfg: Config, model: nn.Module) -> None:
    """Check that the training pipeline draws masks of the student's patch grid.

    Some masks cannot be checked here: those whose transform needs an image, and
    those whose transform :func:`mask_generator` does not recognize. They are
    skipped, since :class:`MaskDistill` checks the masks of each batch.

    Args:
        cfg (Config): The config.
        model (nn.Module): The model built from the config, or a wrapper of it.
            A model other than :class:`MaskDistill` is not checked.

    Raises:
        ConfigError: If the grid of the masks is not the student's patch grid, or if
            only hidden patches count and some batches hide none.
    """
    while is_model_wrapper(model):
        model = model.module
    step = mask_generator(cfg) if isinstance(model, MaskDistill) else None
    if step is None:
        return
    generator = TRANSFORMS.build(step)
    hides_none = isinstance(generator, CountedMaskGenerator) and not generator.least
    if hides_none and model.predict == 'hidden':
        raise ConfigError(
            f'{generator} hides no patch in some batches, but only hidden patches '
            "count in the loss: set model.predict='all' and "
            "model.backbone.type='mmmaskdistill.AllTokensViT', or let it always hide "
            'some'
        )
    try:
        drawn = generator.transform({})
    except KeyError:  # The transform needs an image.
        return
    shape = drawn['noise' if 'noise' in drawn else 'mask'].shape
    rows, columns = model.backbone.grid
    if tuple(shape) not in ((rows, columns), (rows * columns,)):
        raise ConfigError(
            f'{class_name(step)} of the training pipeline draws masks of '
            f'{" x ".join(map(str, shape))} patches, the student '
            f'{type(model.backbone).__name__} has {rows} x {columns}: set '
            f'input_size=({rows}, {columns}) of the mask generator'
        )


def _data_paths(
    dataset: Any, option: str, scope: str | None
) -> Iterator[tuple[str, str]]:
    """Yield each option of a dataset that is a path, together with that path.

    Datasets that the dataset wraps are included. Paths are joined in the same
    way as in mmengine's ``BaseDataset``.
    """
    if isinstance(dataset, (list, tuple)):
        for k, part in enumerate(dataset):
            yield from _data_paths(part, f'{option}.{k}', scope)
    if not isinstance(dataset, dict):
        return
    kind = _dataset_class(dataset.get('type'), scope)
    if _downloads(kind, dataset):
        return
    root = dataset.get('data_root') or ''
    if root:
        yield f'{option}.data_root', root
    if isinstance(dataset.get('ann_file'), str) and dataset['ann_file']:
        yield f'{option}.ann_file', osp.join(root, dataset['ann_file'])
    prefixes = dataset.get('data_prefix') or {}
    if not prefixes and issubclass(kind, (ImageNet, ImageNet21k)):
        prefixes = dataset.get('split') or {}
    packed = FOLDERS.get(dataset.get('storage'), '')
    if isinstance(prefixes, str):
        yield f'{option}.data_prefix', osp.join(root, prefixes) + packed
    else:
        for name, prefix in prefixes.items():
            if isinstance(prefix, str):
                yield (f'{option}.data_prefix.{name}', osp.join(root, prefix) + packed)
    for nested in ('dataset', 'datasets'):
        yield from _data_paths(dataset.get(nested), f'{option}.{nested}', scope)


def _dataset_class(kind: str | type | None, scope: str | None) -> type:
    """Return the class that a config's ``type`` names, or else ``object``."""
    if isinstance(kind, str):
        kind = DATASETS.get(f'{scope}.{kind}' if scope and '.' not in kind else kind)
    return kind if isinstance(kind, type) else object


def _downloads(kind: type, dataset: dict) -> bool:
    """Tell whether a dataset downloads missing files, as CIFAR10 does."""
    parameter = inspect.signature(kind).parameters.get('download')
    return parameter is not None and dataset.get('download', parameter.default)


def _checkpoints(node: Any, option: str) -> Iterator[tuple[str, str]]:
    """Yield each option of a model named ``checkpoint``, together with its path."""
    if isinstance(node, (list, tuple)):
        for k, item in enumerate(node):
            yield from _checkpoints(item, f'{option}.{k}')
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == 'checkpoint' and isinstance(value, str):
                yield f'{option}.{key}', value
            else:
                yield from _checkpoints(value, f'{option}.{key}')


def _is_local(path: str) -> bool:
    """Tell whether a path is on this machine, unlike ``s3:`` and ``hf-hub:``."""
    return ':' not in path
