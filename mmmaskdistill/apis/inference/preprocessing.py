"""Turn images into the inputs of a model, as the config's test pipeline does."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from torch import nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

from ..configs import enable_tta
from ..pipelines import loads, test_dataset, training_pipeline
from .inputs import ImageLoader


class Preprocessing:
    """A pipeline that starts from a file, a PIL image or an array.

    Steps that load labels are left out.

    Args:
        steps (list[dict]): Configs of the transforms, the first of which loads an
            image.

    Raises:
        ConfigError: If no step loads an image.
    """

    def __init__(self, steps: list):
        steps = [step for step in steps if loads(step) != 'labels']
        where = next((i for i, step in enumerate(steps) if loads(step)), None)
        if where is None:
            raise ConfigError(
                "no step of the config's test pipeline loads an image: expected a "
                'transform such as LoadImageFromFile'
            )
        self.load = ImageLoader(TRANSFORMS.build(steps[where]))
        self.rest = Compose(steps[:where] + steps[where + 1 :])

    def __call__(self, image: Any) -> dict:
        """Load an image and transform it.

        Args:
            image (Any): See :class:`.ImageLoader`.

        Returns:
            dict: ``inputs``, [C, h, w], and ``data_samples``. With test-time
            augmentation, lists of one for each view.
        """
        return self.rest(self.load(image))


def test_steps(config: Config, model: nn.Module, task: str) -> list:
    """List the transforms of an image before it is predicted.

    Args:
        config (Config): The config.
        model (nn.Module): The model, whose usual size matters in pre-training.
        task (str): The task, see :func:`.building.build`.

    Returns:
        list[dict]: Those of the config's test pipeline. In pre-training, which has
        none, the image is resized to the student's usual size.

    Raises:
        ConfigError: If the config has no test pipeline.
    """
    if task == 'pretraining':
        height, width = (side * model.backbone.stride for side in model.backbone.grid)
        load = next((s for s in training_pipeline(config) if loads(s) == 'image'), None)
        return [
            deepcopy(load) or dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(width, height), interpolation='bicubic'),
            dict(type='mmpretrain.PackInputs'),
        ]
    dataset = test_dataset(config)
    if dataset is None:
        raise ConfigError(
            'the config has no test_dataloader.dataset.pipeline: give a config that '
            'has one'
        )
    return deepcopy(list(dataset['pipeline']))


def tta_steps(config: Config, steps: list) -> tuple[list, dict]:
    """List the transforms of test-time augmentation.

    Args:
        config (Config): The config.
        steps (list[dict]): Those without it, from :func:`test_steps`.

    Returns:
        tuple[list[dict], dict]: The transforms, and the config of the model that
        merges the predictions.

    Raises:
        ConfigError: If the config has no test-time augmentation, see
            :func:`..configs.enable_tta`.
    """
    names = ('default_scope', 'model', 'tta_model', 'tta_pipeline')
    copy = Config({k: deepcopy(config[k]) for k in names if config.get(k)})
    steps = [step for step in steps if loads(step) != 'labels']
    copy.test_dataloader = ConfigDict(dataset=dict(pipeline=steps))
    enable_tta(copy)
    merging = {k: v for k, v in copy.model.items() if k != 'module'}
    return copy.test_dataloader.dataset.pipeline, merging


def crop_of(model: nn.Module) -> tuple[int, int] | None:
    """Return the size of the images that a segmentor is made for.

    Args:
        model (nn.Module): The segmentor.

    Returns:
        tuple[int, int] | None: Height and width: the ``crop_size`` of ``test_cfg`` if
        it is tested in sliding windows, or else the size of its training crops, which
        its data preprocessor knows. None if neither is set.
    """
    test_cfg = model.test_cfg or {}
    if test_cfg.get('mode') == 'slide':
        return pair(test_cfg['crop_size'])
    size = getattr(model.data_preprocessor, 'size', None)
    return None if size is None else pair(size)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of what is given as one number or as two."""
    return (value, value) if isinstance(value, int) else tuple(value)
