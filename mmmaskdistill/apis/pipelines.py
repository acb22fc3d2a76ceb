"""Find the training pipeline of a config and the steps in it."""

import re
from collections.abc import Iterator

from mmengine.config import Config

from mmmaskdistill.errors import ConfigError


def class_name(part: dict) -> str:
    """Return the name of the class that a part of a config is built from.

    Args:
        part (dict): Part of a config, whose ``type`` is a name, with or without
            a scope such as ``mmpretrain.``, or a class.

    Returns:
        str: The name without the scope.
    """
    kind = part['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def loads(step: dict) -> str | None:
    """Tell what a step of a pipeline loads.

    Args:
        step (dict): Config of a transform.

    Returns:
        str | None: ``'image'``, ``'labels'``, or None if it loads nothing.
    """
    name = class_name(step)
    if not name.startswith('Load'):
        # ``StrictLoadImageFromFile`` loads an image, too.
        return 'image' if name.startswith('StrictLoadImage') else None
    return 'labels' if re.search('Ann|Label|Seg', name) else 'image'


def training_pipeline(config: Config) -> list:
    """Return the transforms that a config applies to its training images.

    Args:
        config (Config): The config. Its dataset may wrap another dataset.

    Returns:
        list: The configs of the transforms.

    Raises:
        ConfigError: If the config has no training pipeline.
    """
    pipeline = _find_pipeline(config)
    if pipeline is None:
        raise ConfigError(
            'the config has no train_dataloader.dataset.pipeline: expected '
            'a pre-training config'
        )
    return pipeline


def mask_generators(config: Config) -> list[dict]:
    """Return the transforms that draw which patches are hidden.

    Args:
        config (Config): The config. Its dataset may combine several datasets.

    Returns:
        list[dict]: For each training pipeline the config of the first transform whose
        class is ``GumbelNoise`` or has a name that ends in ``MaskGenerator``.
        Pipelines without such a transform are left out.
    """
    found = []
    for pipeline in training_pipelines(config):
        for step in pipeline:
            name = class_name(step)
            if name.endswith('MaskGenerator') or name == 'GumbelNoise':
                found.append(step)
                break
    return found


def training_pipelines(config: Config) -> list[list]:
    """Return the pipelines of all training data.

    Args:
        config (Config): The config. Its dataset may combine several datasets, as
            ``ConcatDataset`` does.

    Returns:
        list[list]: The configs of the transforms of each dataset with a pipeline.
    """
    return [
        dataset['pipeline'] for dataset in _find_datasets(config, 'train_dataloader')
    ]


def test_dataset(config: Config) -> dict | None:
    """Return the config of the data set that a config is tested with.

    Args:
        config (Config): The config. Its data set may wrap another data set.

    Returns:
        dict | None: The config of the data set with a pipeline: that of
        ``test_dataloader``, or else of ``val_dataloader``. None if there is none.
    """
    return _find_dataset(config, 'test_dataloader') or _find_dataset(
        config, 'val_dataloader'
    )


def _find_pipeline(config: Config) -> list | None:
    dataset = _find_dataset(config, 'train_dataloader')
    return dataset['pipeline'] if dataset else None


def _find_dataset(config: Config, loader: str) -> dict | None:
    return next(_find_datasets(config, loader), None)


def _find_datasets(config: Config, loader: str) -> Iterator[dict]:
    """Find the datasets that have a pipeline.

    A dataset without a pipeline wraps another dataset, or several of them.
    """
    todo = [(config.get(loader) or {}).get('dataset')]
    while todo:
        dataset = todo.pop(0) or {}
        if 'pipeline' in dataset:
            yield dataset
        else:
            todo = [dataset.get('dataset'), *(dataset.get('datasets') or []), *todo]
            todo = [part for part in todo if part]
