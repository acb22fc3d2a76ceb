"""Check that the masks of pre-training fit the student."""

import math
from collections.abc import Callable

import numpy as np
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import TRANSFORMS
from torch import nn

from mmmaskdistill.apis.pipelines import class_name, mask_generators
from mmmaskdistill.datasets.masking import CountedMaskGenerator, NoMaskGenerator
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill


def check_masks(cfg: Config, model: nn.Module) -> None:
    """Check that the training pipeline draws masks of the student's patch grid.

    Some masks cannot be checked here: those whose transform needs an image, and
    those whose transform :func:`mask_generators` does not recognize. They are
    skipped, since :class:`MaskDistill` checks the masks of each batch.

    Args:
        cfg (Config): The config.
        model (nn.Module): The model built from the config, or a wrapper of it.
            A model other than :class:`MaskDistill` is not checked.

    Raises:
        ConfigError: If the grid of the masks is not the student's patch grid, or if
            no patch counts in the loss of some batches.
    """
    while is_model_wrapper(model):
        model = model.module
    if isinstance(model, MaskDistill):
        for step in mask_generators(cfg):
            _check_step(step, model)


def _check_step(step: dict, model: MaskDistill) -> None:
    generator = TRANSFORMS.build(step)
    if not model.teacher.class_token:  # A class token counts in every batch.
        _check_counts(generator, model)
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


# Shares of a run at which its settings are looked at. Its last batch is before 1.
PROGRESS = np.arange(10000) / 10000


def _check_counts(generator: Callable, model: MaskDistill) -> None:
    """Check that some patch counts in the loss of every batch of a run."""
    patches = math.prod(model.backbone.grid)
    for progress in PROGRESS.tolist():
        counting = model.counting_at(progress)
        if counting == 'all':
            continue
        empty = 0 if counting == 'hidden' else patches
        if isinstance(generator, CountedMaskGenerator):
            hidden = generator.hidden_at(progress)
        else:
            hidden = {0} if isinstance(generator, NoMaskGenerator) else set()
        if empty in hidden:
            what = 'no patch' if counting == 'hidden' else 'every patch'
            why = (
                f'visible patches have the weight 0 ({100 * progress:g} % into the run)'
                if model.predict == 'all'
                else f'model.predict={model.predict!r}'
            )
            raise ConfigError(
                f'{generator} hides {what} in some batches, but only {counting} '
                f'patches count in the loss, because {why}: {_advice(model)}'
            )


def _advice(model: MaskDistill) -> str:
    if model.predict == 'all':
        return 'let visible_weight stay above 0, or let every batch hide some patches'
    if model.predict == 'visible':
        return "set model.predict='all', or let every batch show some patches"
    return (
        "set model.predict='all' and "
        "model.backbone.type='mmmaskdistill.AllTokensViT', or let every batch hide "
        'some patches'
    )
