"""An ablation's cells: a pre-training config with some of its parts changed."""

import math
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from typing import NamedTuple

import timm
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.models.weights import first_line
from mmmaskdistill.registry import MODELS

from .configs import change_config
from .pipelines import class_name, mask_generator
from .preflight import check_masks
from .pretraining import build_pretraining

NORMALIZERS = dict(
    layer_norm='mmmaskdistill.LayerNormalizer',
    none='mmmaskdistill.NoNormalizer',
    batch_norm='mmmaskdistill.BatchNormalizer',
    instance_norm='mmmaskdistill.InstanceNormalizer',
    l2='mmmaskdistill.L2Normalizer',
    patch_pixel='mmmaskdistill.PatchPixelNormalizer',
)
LOSSES = dict(
    smooth_l1='mmmaskdistill.SmoothL1Loss',
    l1='mmmaskdistill.L1Loss',
    mse='mmmaskdistill.MSELoss',
    cosine='mmpretrain.CosineSimilarityLoss',
    cross_entropy='mmmaskdistill.CrossEntropyLoss',
)
MASKS = dict(
    block='mmmaskdistill.BlockMaskGenerator',
    random='mmmaskdistill.UniformMaskGenerator',
    attention='mmmaskdistill.GumbelNoise',
    none='mmmaskdistill.NoMaskGenerator',
)
TEACHERS = dict(
    pixel='mmmaskdistill.PixelTeacher',
    hog='mmmaskdistill.HOGTeacher',
    momentum='mmmaskdistill.MomentumTeacher',
)


class Cell(NamedTuple):
    """One point of the grid.

    Attributes:
        settings (dict[str, str]): Value of each axis.
        name (str): What it changes in the config, fit for a folder.
        config (Config): The changed config; None if it is refused.
        refusal (str): Why it is not to be run, empty if it is.
    """

    settings: dict[str, str]
    name: str
    config: Config | None
    refusal: str = ''


def make_cells(
    config: Config, axes: dict[str, Sequence[str]], one_at_a_time: bool = False
) -> list[Cell]:
    """The cells of an ablation, each checked by building its model.

    Args:
        config (Config): The pre-training config.
        axes (dict[str, Sequence[str]]): Values of each axis, short names for
            ``teacher``, ``normalizer``, ``loss``, ``mask`` and ``ratio``; any
            other name is a key of the config.
        one_at_a_time (bool): Vary an axis with the others at their first
            value, instead of taking all combinations. Defaults to False.

    Raises:
        ConfigError: If an axis has a value that is none of its own.
    """
    _check_values(axes)
    for axis in axes:
        if axis not in SETTERS:
            _check_key(config, axis)
    cells, names, refusals = [], {}, {}
    for settings in _combine(axes, one_at_a_time):
        try:
            changed, name = _change(config, settings)
        except ConfigError as error:
            cells.append(Cell(settings, '', None, str(error)))
            continue
        if name in names:
            refusal = f'the same config as {_describe(names[name])}'
        else:
            names[name] = settings
            # Masks differ more often than models.
            key = repr((changed.model, _mask_generator(changed)))
            if key not in refusals:
                refusals[key] = check_cell(changed)
            refusal = refusals[key]
        cells.append(Cell(settings, name, changed, refusal))
    return cells


def check_cell(config: Config) -> str:
    """Why a pre-training config cannot be run, empty if it can."""
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    try:
        check_masks(config, build_pretraining(config))
    except (ConfigError, CheckpointError) as error:
        return str(error)
    except Exception as error:  # whatever a constructor makes of a value
        return f'{type(error).__name__}: {first_line(error)}'
    return ''


def _check_values(axes: dict[str, Sequence[str]]):
    known = dict(normalizer=NORMALIZERS, loss=LOSSES, mask=MASKS)
    for axis, values in axes.items():
        for value in values:
            if axis in known and value not in known[axis]:
                raise ConfigError(
                    f'{axis} {value!r}: expected one of {", ".join(known[axis])}'
                )
            if axis == 'ratio' and not _is_ratio(value):
                raise ConfigError(
                    f'ratio {value!r}: expected a number above '
                    '0, below 1, the share of hidden patches'
                )
            if axis == 'teacher' and value not in TEACHERS and not timm.is_model(value):
                raise ConfigError(
                    f'teacher {value!r}: expected one of '
                    f'{", ".join(TEACHERS)} or a model of timm '
                    f'{timm.__version__}; for others, start from a config '
                    'that has them'
                )
        if len(set(values)) < len(values):
            raise ConfigError(f'{axis} has a value twice: {" ".join(values)}')


def _is_ratio(value: str) -> bool:
    try:
        return 0 < float(value) < 1
    except ValueError:
        return False


def _combine(
    axes: dict[str, Sequence[str]], one_at_a_time: bool
) -> Iterator[dict[str, str]]:
    if not one_at_a_time:
        for values in product(*axes.values()):
            yield dict(zip(axes, values))
        return
    baseline = {axis: values[0] for axis, values in axes.items()}
    yield baseline
    for axis, values in axes.items():
        for value in values[1:]:
            yield {**baseline, axis: value}


def _change(config: Config, settings: dict[str, str]):
    """A changed copy, and a name of what differs from the config itself.

    A value that the config has anyway is not part of the name, so that a cell
    keeps its name when axes are added.
    """
    config = deepcopy(config)
    words = []
    # Parts first, a mask before its ratio: keys may lie in new parts.
    for axis in [*SETTERS, *(axis for axis in settings if axis not in SETTERS)]:
        if axis not in settings:
            continue
        before = deepcopy(config._cfg_dict)
        if axis in SETTERS:
            SETTERS[axis](config, settings[axis])
        else:
            change_config(config, [f'{axis}={settings[axis]}'])
        if config._cfg_dict != before:
            words.append(f'{axis}={settings[axis]}')
    name = re.sub(r'[^\w.=,-]', '_', ','.join(words))
    return config, name or 'as_configured'


def _check_key(config: Config, key: str):
    """Refuse a key that no part of the config would take."""
    node, found = config._cfg_dict, []
    parents = key.split('.')[:-1] or [key]
    for name in parents:
        if isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict) and name in node:
            node = node[name]
        else:
            raise ConfigError(
                f'the config has no {".".join([*found, name])!r}, which the '
                f'axis {key!r} is in'
            )
        found.append(name)


def _describe(settings: dict[str, str]) -> str:
    return ', '.join(f'{axis}={value}' for axis, value in settings.items())


def _replace(part: dict, kind: str, **options) -> dict:
    """A part of another class; one of that class stays as it is."""
    if class_name(part) == kind.rpartition('.')[2]:
        return part
    return ConfigDict(type=kind, **options)


def _set_normalizer(config: Config, value: str):
    model = config.model
    model.normalizer = _replace(model.normalizer, NORMALIZERS[value])


def _set_loss(config: Config, value: str):
    config.model.loss = _replace(config.model.loss, LOSSES[value])


def _set_teacher(config: Config, value: str):
    """T, with its view of the images and the width of the head."""
    model = config.model
    cached = class_name(model.teacher) == 'CachedTeacher'
    old = model.teacher.teacher if cached else model.teacher
    img_size = model.backbone.get('img_size', 224)
    if value in TEACHERS:
        options = (
            {}
            if value == 'momentum'
            else dict(
                img_size=img_size, patch_size=model.backbone.get('patch_size', 16)
            )
        )
        new = _replace(old, TEACHERS[value], **options)
    elif old.get('model_name') == value:
        new = old
    else:
        new = ConfigDict(
            type='mmmaskdistill.TimmTeacher', model_name=value, img_size=img_size
        )
    if new is old:
        return
    # Features of pixels and of a student that learns are not worth keeping.
    keep = cached and value not in TEACHERS
    model.teacher = ConfigDict(type=model.teacher.type, teacher=new) if keep else new
    view = config.get('data_preprocessor') or model.data_preprocessor
    mean, std = view.mean, view.std
    if value not in TEACHERS:
        published = timm.get_pretrained_cfg(value)
        mean, std = (
            [255 * v for v in values] for values in (published.mean, published.std)
        )
    view.update(second_mean=list(mean), second_std=list(std))
    model.head.out_channels = _channels(config, new)


def _channels(config: Config, teacher: dict) -> int:
    """Dt, without the teacher's weights."""
    if class_name(teacher) == 'MomentumTeacher':
        return config.model.head.in_channels
    options = {} if class_name(teacher) != 'TimmTeacher' else dict(pretrained='random')
    return MODELS.build({**teacher, **options}).channels


def _mask_generator(config: Config) -> dict:
    step = mask_generator(config)
    if step is None:
        raise ConfigError(
            'the training pipeline has no mask generator, such '
            'as mmmaskdistill.BlockMaskGenerator'
        )
    return step


def _hidden(config: Config) -> int | None:
    """Patches that a config hides, None if it hides none."""
    for part in (config.model.get('masking') or {}, _mask_generator(config)):
        if 'num_masking_patches' in part:
            return part['num_masking_patches']
    return None


def _patches(config: Config) -> int:
    grid = _mask_generator(config)['input_size']
    return grid**2 if isinstance(grid, int) else math.prod(grid)


def _set_mask(config: Config, value: str):
    """m; without one the student sees all patches and predicts all."""
    model, step = config.model, _mask_generator(config)
    if class_name(step) == MASKS[value].rpartition('.')[2]:
        return
    hidden = _hidden(config) or round(0.4 * _patches(config))
    if class_name(step) == 'NoMaskGenerator':
        model.predict = 'hidden'
    grid = step['input_size']
    step.clear()
    step.update(type=MASKS[value], input_size=grid)
    model.pop('masking', None)
    if value == 'none':
        model.predict = 'all'
        if class_name(model.backbone) == 'MaskDistillViT':
            model.backbone.type = 'mmmaskdistill.AllTokensViT'
    elif value == 'attention':
        model.masking = ConfigDict(
            type='mmmaskdistill.AttentionMask', num_masking_patches=hidden
        )
    else:
        step.num_masking_patches = hidden
    if value == 'block':  # the recipe's 16 of 14 x 14
        step.min_num_patches = max(1, round(_patches(config) * 16 / 196))


def _set_ratio(config: Config, value: str):
    step = _mask_generator(config)
    part = config.model.masking if class_name(step) == 'GumbelNoise' else step
    if 'num_masking_patches' in part:  # else nothing is hidden
        square = part.get('unit', 1) ** 2
        part.num_masking_patches = square * round(
            float(value) * _patches(config) / square
        )


SETTERS = dict(
    teacher=_set_teacher,
    normalizer=_set_normalizer,
    loss=_set_loss,
    mask=_set_mask,
    ratio=_set_ratio,
)
