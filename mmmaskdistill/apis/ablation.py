"""Make the runs of an ablation: pre-training configs with some parts changed."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import chain, product
from typing import NamedTuple

import timm
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmmaskdistill.datasets.masking import CountedMaskGenerator
from mmmaskdistill.errors import CheckpointError, ConfigError, first_line
from mmmaskdistill.models.checkpoints import FitsCheckpoints, check_backbone, fit
from mmmaskdistill.registry import MODELS, TRANSFORMS

from .checks import check_masks
from .configs import change_config
from .pipelines import class_name, mask_generators, training_pipelines
from .pretraining import build_pretraining, make_teachers_random

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

COMBINATION = 'combination'  # the axis whose values set several axes at once
AS_CONFIGURED = 'as_configured'  # name of the cell that changes nothing
# Keys that the runs of an ablation set themselves.
RESERVED = ('randomness.seed', 'work_dir', 'launcher')
# START-END. Numbers such as 1e-3 contain a hyphen, too.
RAMP = re.compile(r'([\d.]+(?:e[+-]?\d+)?)-([\d.]+(?:e[+-]?\d+)?)', re.IGNORECASE)
LONGEST_NAME = 200  # File systems take names of up to 255 bytes.


class Cell(NamedTuple):
    """One combination of values in an ablation.

    Attributes:
        settings (dict[str, str]): The value of each axis.
        name (str): The values that differ from the original config, in a form
            that can be a folder name. Empty if the settings cannot be applied.
        config (Config | None): The changed config. None if the settings cannot
            be applied.
        refusal (str): Why the cell cannot be run. Empty if it can. Defaults to
            ``''``.
    """

    settings: dict[str, str]
    name: str
    config: Config | None
    refusal: str = ''


def make_cells(
    config: Config, axes: dict[str, Sequence[str]], one_at_a_time: bool = False
) -> list[Cell]:
    """Make the cells of an ablation and check each one by building its model.

    Args:
        config (Config): The pre-training config.
        axes (dict[str, Sequence[str]]): The values of each axis. The axes
            ``teacher``, ``normalizer``, ``loss`` and ``mask`` take short names
            such as ``layer_norm``. The axis ``ratio`` takes the share of hidden
            patches, ``visible_weight`` the weight of a visible patch in the loss,
            both as a number or as ``START-END`` if it changes during the run, and
            ``unmasked`` takes the share of the batches without a mask. The values
            of ``combination`` set several axes at once, as in
            ``'ratio=0-0.4,visible_weight=1'``, or none as in ``'as_configured'``.
            Any other axis is a key of the config, such as
            ``optim_wrapper.optimizer.lr``.
        one_at_a_time (bool): Whether to vary one axis at a time, while all
            other axes keep their first value, instead of making all
            combinations. Defaults to False.

    Returns:
        list[Cell]: One cell for each combination of values. Combinations that
        cannot be run, or that repeat an earlier config, have a ``refusal``.

    Raises:
        ConfigError: If an axis has an unknown value or lists a value twice, if
            the config does not have the key that an axis sets, or if the config
            has no mask generator.
    """
    _check_axes(config, axes)
    for value in axes.get(COMBINATION, ()):
        _check_axes(config, {k: [v] for k, v in _settings_of(value, axes).items()})
    cells, names, same, refusals = [], set(), {}, {}
    for settings in _combine(axes, one_at_a_time):
        try:
            changed, name = _change(config, settings)
        except ConfigError as error:
            cells.append(Cell(settings, '', None, str(error)))
            continue
        content = json.dumps(changed.to_dict(), sort_keys=True, default=repr)
        if content in same:
            refusal = f'the same config as {_describe(same[content])}'
        else:
            same[content] = settings
            if name in names or len(name) > LONGEST_NAME:
                digest = hashlib.sha256(content.encode()).hexdigest()[:8]
                name = f'{name[:LONGEST_NAME]}_{digest}'
            names.add(name)
            # Building a model takes long, so cells that share the model and the
            # mask generator also share the check.
            key = repr((changed.model, mask_generators(changed)))
            if key not in refusals:
                refusals[key] = check_cell(changed)
            refusal = refusals[key]
        cells.append(Cell(settings, name, changed, refusal))
    return cells


def check_cell(config: Config) -> str:
    """Find out whether a pre-training config can be run.

    Args:
        config (Config): The pre-training config.

    Returns:
        str: The reason why the config cannot be run, as a single line. Empty
        if it can be run.
    """
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    try:
        check_masks(config, build_pretraining(config))
    except (ConfigError, CheckpointError) as error:
        return str(error)
    except Exception as error:  # A constructor may raise anything for a bad value.
        return f'{type(error).__name__}: {first_line(error)}'
    return ''


def refuse_misfits(cells: Sequence[Cell], evaluations: dict[str, Config]) -> list[Cell]:
    """Refuse cells whose students do not fit into the models of the evaluations.

    Args:
        cells (Sequence[Cell]): The cells, from :func:`make_cells`.
        evaluations (dict[str, Config]): The configs that are trained from each
            student, by name.

    Returns:
        list[Cell]: The cells, some of which have a ``refusal`` now.
    """
    checked, known = [], {}
    for cell in cells:
        if not cell.refusal:
            key = repr(cell.config.model.backbone)
            if key not in known:
                known[key] = _misfit(cell.config, evaluations)
            cell = cell._replace(refusal=known[key])
        checked.append(cell)
    return checked


def _misfit(config: Config, evaluations: dict[str, Config]) -> str:
    """Find out why a student does not fit into the evaluations' backbones."""
    student = _build_backbone(config)
    for name, evaluation in evaluations.items():
        if not evaluation.model.get('backbone'):
            return f'{name}: its model has no backbone to start from the student'
        evaluation = deepcopy(evaluation)
        evaluation.model.backbone.init_cfg = None  # Its own weights are not read.
        try:
            backbone = _build_backbone(evaluation)
            if isinstance(backbone, FitsCheckpoints):
                _, report = fit(backbone, student.state_dict())
                check_backbone(report, 'the student', backbone)
        except (ConfigError, CheckpointError) as error:
            return f'{name}: {" ".join(str(error).split())}'
        except Exception as error:  # A constructor may raise anything for a bad value.
            return f'{name}: {type(error).__name__}: {first_line(error)}'
    return ''


def _build_backbone(config: Config) -> nn.Module:
    with DefaultScope.overwrite_default_scope(config.get('default_scope')):
        return MODELS.build(config.model.backbone)


def _settings_of(combination: str, axes: Iterable[str]) -> dict[str, str]:
    """Parse a combination: AXIS=VALUE, separated by commas."""
    if combination == AS_CONFIGURED:
        return {}
    settings = {}
    for part in combination.split(','):
        axis, equals, value = part.partition('=')
        if not (axis and equals and value):
            raise ConfigError(
                f'combination {combination!r}: expected AXIS=VALUE, separated by '
                f'commas, or {AS_CONFIGURED!r}'
            )
        if axis in settings or axis in axes:
            raise ConfigError(
                f'combination {combination!r}: {axis} is set twice, or is also an axis '
                'of its own'
            )
        settings[axis] = value
    return settings


def _check_axes(config: Config, axes: dict[str, Sequence[str]]):
    _check_values(axes)
    for axis in axes:
        if axis not in SETTERS and axis != COMBINATION:
            _check_key(config, axis)


def _check_values(axes: dict[str, Sequence[str]]):
    known = dict(normalizer=NORMALIZERS, loss=LOSSES, mask=MASKS)
    for axis, values in axes.items():
        for value in values:
            if axis in known and value not in known[axis]:
                raise ConfigError(
                    f'{axis} {value!r}: expected one of {", ".join(known[axis])}'
                )
            if axis == 'ratio' and not all(0 <= n < 1 for n in _ramp(axis, value)):
                raise ConfigError(
                    f'ratio {value!r}: expected the share of hidden patches, 0 or more '
                    'and less than 1, or START-END'
                )
            if axis == 'visible_weight' and not all(
                0 <= n < math.inf for n in _ramp(axis, value)
            ):
                raise ConfigError(
                    f'visible_weight {value!r}: expected 0 or more, or START-END'
                )
            if axis == 'unmasked' and not 0 <= _number(axis, value) < 1:
                raise ConfigError(
                    f'unmasked {value!r}: expected a share of the batches, 0 or more '
                    'and less than 1'
                )
            if axis == 'teacher' and value not in TEACHERS and not timm.is_model(value):
                raise ConfigError(
                    f'teacher {value!r}: expected one of '
                    f'{", ".join(TEACHERS)} or a model of timm '
                    f'{timm.__version__}. To use another teacher, start from a '
                    'config that has it'
                )
        if len(set(values)) < len(values):
            raise ConfigError(f'{axis} lists a value twice: {" ".join(values)}')


def _number(axis: str, value: str, word: str | None = None) -> float:
    try:
        return float(value if word is None else word)
    except ValueError:
        raise ConfigError(f'{axis} {value!r}: expected a number') from None


def _ramp(axis: str, value: str) -> tuple[float, float]:
    """Parse a number, or the two numbers of START-END."""
    match = RAMP.fullmatch(value)
    start, end = match.groups() if match else (value, value)
    return _number(axis, value, start), _number(axis, value, end)


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
    """Apply settings to a copy of the config and name the copy after the changes.

    A setting that equals the value in the config is not part of the name, so a
    cell keeps its name when axes are added to the ablation.
    """
    config = deepcopy(config)
    settings = dict(settings)
    settings.update(_settings_of(settings.pop(COMBINATION, AS_CONFIGURED), settings))
    words = []
    # Parts are replaced before keys are set, because a key may lie inside a new
    # part. The mask is replaced before its ratio is set for the same reason.
    for axis in [*SETTERS, *(axis for axis in settings if axis not in SETTERS)]:
        if axis not in settings:
            continue
        before = deepcopy(config._cfg_dict)
        if axis in SETTERS:
            if axis == 'ratio' and 'mask' not in settings:
                _hide_some(config, settings[axis])
            SETTERS[axis](config, settings[axis])
            _set_other_masks(config, before)
        else:
            change_config(config, [f'{axis}={settings[axis]}'])
        if config._cfg_dict != before:
            words.append(f'{axis}={settings[axis]}')
    name = re.sub(r'[^\w.=,-]', '_', ','.join(words))
    return config, name or AS_CONFIGURED


def _check_key(config: Config, key: str):
    """Raise a ConfigError if the config has no part that the key belongs to."""
    if key in RESERVED:
        raise ConfigError(
            f'the axis {key!r} cannot be set, because each run of an ablation sets it: '
            + ('use --seeds' if key == RESERVED[0] else 'leave it out')
        )
    node, found = config._cfg_dict, []
    parents = key.split('.')[:-1] or [key]
    for name in parents:
        if isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict) and name in node:
            node = node[name]
        else:
            raise ConfigError(
                f'the config has no {".".join([*found, name])!r}, so the axis '
                f'{key!r} cannot be set'
            )
        found.append(name)


def _describe(settings: dict[str, str]) -> str:
    return ', '.join(f'{axis}={value}' for axis, value in settings.items())


def _replace(part: dict, kind: str, **options) -> dict:
    """Return a part of class ``kind``: ``part`` itself if it has that class."""
    if class_name(part) == kind.rpartition('.')[2]:
        return part
    return ConfigDict(type=kind, **options)


def _set_normalizer(config: Config, value: str):
    model = config.model
    model.normalizer = _replace(model.normalizer, NORMALIZERS[value])


def _set_loss(config: Config, value: str):
    config.model.loss = _replace(config.model.loss, LOSSES[value])


def _set_teacher(config: Config, value: str):
    """Set the teacher, the mean and std of its images, and the head's width."""
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
    # A cache does not pay off for features of pixels, and the features of a
    # momentum teacher change while the student learns.
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
    hooks = config.get('custom_hooks') or []
    if value == 'momentum':
        hooks = [*hooks, dict(type='mmmaskdistill.MomentumTeacherHook')]
    elif class_name(old) == 'MomentumTeacher':
        hooks = [h for h in hooks if class_name(h) != 'MomentumTeacherHook']
    else:
        return
    config.custom_hooks = hooks


def _channels(config: Config, teacher: dict) -> int:
    """Return the number of the teacher's channels without loading its weights."""
    if class_name(teacher) == 'MomentumTeacher':
        return config.model.head.in_channels
    teacher = deepcopy(teacher)
    make_teachers_random(teacher)
    return MODELS.build(teacher).channels


def _mask_generator(config: Config) -> dict:
    steps = mask_generators(config)
    if not steps:
        raise ConfigError(
            'the training pipeline has no mask generator: add one, such as '
            'mmmaskdistill.BlockMaskGenerator'
        )
    return steps[0]


def _set_other_masks(config: Config, before: dict):
    """Change the masks of other training data as those of the first were changed."""
    first, *others = mask_generators(config) or [None]
    old = mask_generators(before)
    if not others or first == old[0]:
        return
    if any(step != old[0] for step in old):
        raise ConfigError(
            'the training data sets have different mask generators, so an axis cannot '
            'set all of them: give them the same one'
        )
    for step in others:
        step.clear()
        step.update(deepcopy(first))


def _counted(step: dict) -> bool:
    """Tell whether a mask generator hides a number of patches that may change."""
    kind = step['type']
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, CountedMaskGenerator)


def _hidden(config: Config) -> int | None:
    """Return how many patches a config hides, or None if it hides none."""
    for part in (config.model.get('masking') or {}, _mask_generator(config)):
        hidden = part.get('num_masking_patches')
        if hidden is not None:
            return hidden if isinstance(hidden, int) else hidden['end']
    return None


def _patches(config: Config) -> int:
    grid = _mask_generator(config)['input_size']
    return grid**2 if isinstance(grid, int) else math.prod(grid)


def _set_mask(config: Config, value: str):
    """Set the mask generator.

    With the value ``none`` no patch is hidden: the student sees all patches and
    predicts all of them.
    """
    model, step = config.model, _mask_generator(config)
    if class_name(step) == MASKS[value].rpartition('.')[2]:
        return
    if class_name(step) == 'NoMaskGenerator':
        model.predict = 'hidden'
    _replace_mask(config, value)


def _replace_mask(config: Config, value: str):
    """Put another mask generator in the place of the config's."""
    model, step = config.model, _mask_generator(config)
    hidden = _hidden(config) or round(0.4 * _patches(config))
    grid = step['input_size']
    step.clear()
    step.update(type=MASKS[value], input_size=grid)
    model.pop('masking', None)
    _pack_noise(config, value == 'attention')
    if value == 'none':
        _predict_all(model)
    elif value == 'attention':
        model.masking = ConfigDict(
            type='mmmaskdistill.AttentionMask', num_masking_patches=hidden
        )
    else:
        step.num_masking_patches = hidden
    if value == 'block':  # The recipe's smallest block has 16 of 14 x 14 patches.
        step.min_num_patches = max(1, round(_patches(config) * 16 / 196))


def _pack_noise(config: Config, packed: bool):
    """Let the training pipeline put noise into its samples, or no longer."""
    for step in chain(*training_pipelines(config)):
        if class_name(step) == 'PackInputs':
            keys = [key for key in step.get('algorithm_keys', ()) if key != 'noise']
            keys += ['noise'] if packed else []
            step.pop('algorithm_keys', None)
            if keys:
                step.algorithm_keys = keys


def _predict_all(model: dict):
    """Let all patches count, and the student return them."""
    model.predict = 'all'
    if class_name(model.backbone) == 'MaskDistillViT':
        model.backbone.type = 'mmmaskdistill.AllTokensViT'


def _hide_some(config: Config, value: str):
    """Let a config without a mask hide blocks, so that it has a ratio to set.

    The patches that count in the loss stay the same.
    """
    hides_none = class_name(_mask_generator(config)) == 'NoMaskGenerator'
    if hides_none and any(_ramp('ratio', value)):
        _replace_mask(config, 'block')


def _set_ratio(config: Config, value: str):
    step = _mask_generator(config)
    if class_name(step) == 'NoMaskGenerator':  # The axis `mask` has the value none.
        return
    part = config.model.masking if class_name(step) == 'GumbelNoise' else step
    shares = _ramp('ratio', value)
    if 'num_masking_patches' not in part or (
        shares[0] != shares[1] and not _counted(step)
    ):
        raise ConfigError(
            f'ratio {value!r} cannot be set for the mask generator '
            f'{class_name(step)}: add the axis mask with block or random'
        )
    if not any(shares):
        _set_mask(config, 'none')
        return
    square = part.get('unit', 1) ** 2
    start, end = (square * round(x * _patches(config) / square) for x in shares)
    part.num_masking_patches = start if start == end else dict(start=start, end=end)


def _set_visible_weight(config: Config, value: str):
    """Set the weight of visible patches; 0 is the loss of hidden patches only."""
    model = config.model
    start, end = _ramp('visible_weight', value)
    model.pop('visible_weight', None)
    if not (start or end):
        if model.get('predict', 'hidden') != 'hidden':
            model.predict = 'hidden'
        return
    _predict_all(model)
    if start != end:
        model.visible_weight = dict(start=start, end=end)
    elif start != 1:
        model.visible_weight = start


def _set_unmasked(config: Config, value: str):
    step = _mask_generator(config)
    step.pop('unmasked_batches', None)
    if float(value):
        if not _counted(step):
            raise ConfigError(
                f'unmasked {value!r} cannot be set for the mask generator '
                f'{class_name(step)}: set the axis mask to block or random'
            )
        step.unmasked_batches = float(value)


SETTERS = dict(
    teacher=_set_teacher,
    normalizer=_set_normalizer,
    loss=_set_loss,
    mask=_set_mask,
    ratio=_set_ratio,
    visible_weight=_set_visible_weight,
    unmasked=_set_unmasked,
)
