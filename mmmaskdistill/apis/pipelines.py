"""What a config's training images go through."""

from mmengine.config import Config

from mmmaskdistill.errors import ConfigError


def class_name(part: dict) -> str:
    """Name of the class that a part of a config is, without its scope."""
    kind = part['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def training_pipeline(config: Config) -> list:
    """The steps that a config's training images go through.

    Raises:
        ConfigError: If there are none.
    """
    pipeline = _find_pipeline(config)
    if pipeline is None:
        raise ConfigError(
            'the config has no train_dataloader.dataset.pipeline: expected '
            'a pre-training config'
        )
    return pipeline


def mask_generator(config: Config) -> dict | None:
    """The step that draws which patches are hidden, None if none is known."""
    for step in _find_pipeline(config) or []:
        name = class_name(step)
        if name.endswith('MaskGenerator') or name == 'GumbelNoise':
            return step
    return None


def _find_pipeline(config: Config) -> list | None:
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    while dataset and 'pipeline' not in dataset:  # one inside another
        dataset = dataset.get('dataset') or next(
            iter(dataset.get('datasets') or []), None
        )
    return dataset['pipeline'] if dataset else None
