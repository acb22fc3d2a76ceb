"""Check that the masks of pre-training fit the student."""

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import TRANSFORMS
from torch import nn

from mmmaskdistill.apis.pipelines import class_name, mask_generator
from mmmaskdistill.datasets.masking import CountedMaskGenerator
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill


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
