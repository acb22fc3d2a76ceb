"""What an exported file says about itself, and the usual size of its images."""

import os.path as osp
from typing import Any

import numpy as np
import torch
from mmpretrain.models.heads import MultiLabelClsHead

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistillViT, Student
from mmmaskdistill.version import __version__

from ..inference import LoadedModel
from ..inference.preprocessing import crop_of
from ..pipelines import class_name
from .networks import threshold_of
from .normalization import Normalization, channels_of_files
from .requests import Request

# The key of the description in an ONNX file, and the name of a file with it in others.
KEY = 'mmmaskdistill'
# Sides of the smallest and the largest patch grid of a file with images of any size.
SMALLEST_GRID, LARGEST_GRID = 4, 128
# Side of an image that no pipeline is likely to resize to.
PROBE = 500


def multiple_of(loaded: LoadedModel) -> int:
    """Return the number of pixels of which the sides of images are multiples.

    Args:
        loaded (LoadedModel): The model.

    Returns:
        int: The side of a patch, or 1 if the backbone has none.
    """
    side = getattr(loaded.model.backbone, 'patch_size', 1)
    return side if isinstance(side, int) else 1


def find_size(loaded: LoadedModel, size: tuple[int, int] | None) -> tuple[int, int]:
    """Check the size of images that is asked for, or find the usual one.

    Args:
        loaded (LoadedModel): The model.
        size (tuple[int, int], optional): Height and width in pixels. Defaults to None.

    Returns:
        tuple[int, int]: The size.

    Raises:
        ConfigError: If the sides are not multiples of the side of a patch.
    """
    step = multiple_of(loaded)
    if size is None:
        return tuple(-(-side // step) * step for side in _usual_size(loaded))
    wrong = [side for side in size if side % step]
    if wrong:
        better = ' '.join(str(max(1, round(side / step)) * step) for side in size)
        raise ConfigError(
            f'--size {" ".join(map(str, size))}: {wrong[0]} is not a multiple of '
            f'{step} pixels, the side of a patch. Give --size {better}'
        )
    return tuple(size)


def _usual_size(loaded: LoadedModel) -> tuple[int, int]:
    crop = crop_of(loaded.model) if loaded.task == 'segmentation' else None
    if crop is not None:
        return crop
    image = np.zeros((PROBE, PROBE, channels_of_files(loaded)), np.uint8)
    size = tuple(loaded.preprocess(image)['inputs'].shape[1:])
    backbone = loaded.model.backbone
    if size == (PROBE, PROBE) and isinstance(backbone, Student):
        # The pipeline leaves images as they are, so the training's size is the usual.
        return tuple(side * backbone.stride for side in backbone.grid)
    return size


def describe(
    loaded: LoadedModel,
    request: Request,
    output: str,
    size: tuple[int, int],
    normalization: Normalization,
    names: list[str],
    checkpoint: str,
) -> dict[str, Any]:
    """Describe an exported file for those who use it.

    Args:
        loaded (LoadedModel): The model.
        request (Request): The export.
        output (str): What is computed, one of :data:`.requests.OUTPUTS`.
        size (tuple[int, int]): Height and width of the images, or of usual images.
        normalization (Normalization): How images are normalized.
        names (list[str]): Names of the outputs.
        checkpoint (str): Name of the checkpoint.

    Returns:
        dict: The description, which JSON can hold.
    """
    step = multiple_of(loaded)
    about = dict(
        version=1,
        task=loaded.task,
        output=output,
        input='images',
        outputs=names,
        size=list(size),
        dynamic=request.dynamic,
        multiple=step,
        precision='float16' if request.half else 'float32',
        channels=normalization.channels,
        channel_order=normalization.channel_order,
        order=list(normalization.order),
        mean=list(normalization.mean),
        std=list(normalization.std),
        classes=list(loaded.classes) if loaded.classes else None,
        palette=[list(color) for color in loaded.palette] if loaded.palette else None,
        resize=_resizing(loaded),
    )
    if request.dynamic:
        about['smallest'], about['largest'] = grid_limits(loaded)
    if loaded.task == 'segmentation':
        test = loaded.model.test_cfg or {}
        about['test_mode'] = test.get('mode', 'whole')
        if about['test_mode'] == 'slide':
            about.update(window=list(test['crop_size']), stride=list(test['stride']))
        if loaded.model.out_channels == 1:
            about['threshold'] = threshold_of(loaded.model)
    elif loaded.task == 'classification':
        several = isinstance(loaded.model.head, MultiLabelClsHead)
        about['activation'] = 'sigmoid' if several else 'softmax'
    about['source'] = dict(
        checkpoint=osp.basename(checkpoint.rstrip('/')),
        mmmaskdistill=__version__,
        torch=torch.__version__,
    )
    return about


def grid_limits(loaded: LoadedModel) -> tuple[int, int]:
    """Return the smallest and the largest side of images of any size, in pixels.

    Args:
        loaded (LoadedModel): The model.
    """
    step = multiple_of(loaded)
    if not isinstance(loaded.model.backbone, MaskDistillViT):
        step = max(step, 16)
    return SMALLEST_GRID * step, LARGEST_GRID * step


def _resizing(loaded: LoadedModel) -> dict[str, Any] | None:
    """Return how the test pipeline resizes: the first step that does so."""
    for step in loaded.steps:
        if class_name(step).startswith('Resize'):
            options = {k: v for k, v in step.items() if k != 'type'}
            return dict(type=class_name(step), **_plain(options))
    return None


def _plain(value: Any) -> Any:
    """Turn a part of a config into what JSON can hold."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    plain = isinstance(value, (str, int, float, bool, type(None)))
    return value if plain else str(value)
