"""Check that the files and folders exist which a config names."""

import inspect
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.registry import DATASETS
from mmpretrain.datasets import ImageNet, ImageNet21k

from mmmaskdistill.datasets.storage import FOLDERS
from mmmaskdistill.errors import ConfigErrors
from mmmaskdistill.models.checkpoints.files import POINTER, find_problem


def check_data(cfg: dict, loaders: Sequence[str]) -> None:
    """Check that the folders and annotation files of data loaders exist.

    Args:
        cfg (dict): The config.
        loaders (Sequence[str]): Names of data loaders, such as
            ``train_dataloader``. Names that the config does not have are
            skipped.

    Raises:
        ConfigErrors: If paths are missing. The messages name each missing path of
            the first data loader that lacks one, and its option in the config.
    """
    for messages in missing_data(cfg, loaders).values():
        raise ConfigErrors(messages)


def missing_data(cfg: dict, loaders: Sequence[str]) -> dict[str, list[str]]:
    """Find folders and annotation files of data loaders that do not exist.

    Args:
        cfg (dict): The config.
        loaders (Sequence[str]): Names of data loaders, see :func:`check_data`.

    Returns:
        dict[str, list[str]]: Messages for each data loader with missing paths.
    """
    scope, missing = cfg.get('default_scope'), {}
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset')
        roots = []
        for option, path in _data_paths(dataset, f'{loader}.dataset', scope):
            # Without its root, all else is missing as well.
            if any(path.startswith(root.rstrip('/') + '/') for root in roots):
                continue
            if _is_local(path) and not osp.exists(path):
                roots.append(path)
                missing.setdefault(loader, []).append(
                    f'data not found: {path!r} ({option}, from '
                    f'{osp.abspath(osp.curdir)!r}). Put or link the data '
                    f'there, or give its path with --cfg-options '
                    f'{option}=PATH'
                )
    return missing


def check_weights(cfg: dict) -> None:
    """Check that the files exist whose weights a model starts from.

    Args:
        cfg (dict): The config.

    Raises:
        ConfigErrors: If files are missing. The messages name each file and its
            option in the config.
    """
    messages = missing_weights(cfg)
    if messages:
        raise ConfigErrors(messages)


def missing_weights(cfg: dict) -> list[str]:
    """Find files that do not exist, and whose weights a model starts from.

    Args:
        cfg (dict): The config.

    Returns:
        list[str]: A message for each missing file.
    """
    named = list(_checkpoints(cfg.get('model'), 'model'))
    if cfg.get('load_from'):
        named.append(('load_from', cfg['load_from']))
    return [
        problem
        if osp.basename(path) == POINTER or osp.isdir(path)
        else f'checkpoint not found: {path!r} ({option}, from '
        f'{osp.abspath(osp.curdir)!r}). Give the path of an existing '
        f'file with --cfg-options {option}=PATH'
        for option, path in named
        if (problem := find_problem(path))
    ]


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
    kind = dataset_class(dataset.get('type'), scope)
    if downloads(kind, dataset):
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


def dataset_class(kind: str | type | None, scope: str | None) -> type:
    """Return the class that a config's ``type`` names, or else ``object``."""
    if isinstance(kind, str):
        kind = DATASETS.get(f'{scope}.{kind}' if scope and '.' not in kind else kind)
    return kind if isinstance(kind, type) else object


def downloads(kind: type, dataset: dict) -> bool:
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
