"""Find the training pipeline of a config and the steps in it."""

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


def mask_generator(config: Config) -> dict | None:
    """Return the transform that draws which patches are hidden.

    Args:
        config (Config): The config.

    Returns:
        dict | None: The config of the first transform of the training pipeline
        whose class is ``GumbelNoise`` or has a name that ends in
        ``MaskGenerator``. None if there is no such transform.
    """
    for step in _find_pipeline(config) or []:
        name = class_name(step)
        if name.endswith('MaskGenerator') or name == 'GumbelNoise':
            return step
    return None


def _find_pipeline(config: Config) -> list | None:
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    # A dataset without a pipeline wraps another dataset, or several of them.
    while dataset and 'pipeline' not in dataset:
        dataset = dataset.get('dataset') or next(
            iter(dataset.get('datasets') or []), None
        )
    return dataset['pipeline'] if dataset else None
