"""The doors through which a checkpoint enters a model.

There are five: the ``init_cfg`` of a backbone and of a whole model, the file of a whole
model, a runner's ``load_from``, and ``load_state_dict``. All of them call
:func:`.fitting.fit` once. Those that know the checkpoint's name then judge and log its
report.
"""

from collections.abc import Callable
from typing import Any

from mmengine.model import (
    BaseModule,
    BaseTTAModel,
    PretrainedInit,
    initialize,
    is_model_wrapper,
)
from torch import nn

from . import fitting
from .coverage import check_backbone, check_model, log_report
from .files import find_file, read_weights, unwrap
from .fitting import FitsCheckpoints, fit, shapes_of
from .formats import StateDict, select_under


def apply_init_cfg(backbone: FitsCheckpoints) -> None:
    """Apply the ``init_cfg`` of a backbone, its checkpoints after all other entries.

    Args:
        backbone (FitsCheckpoints): The backbone, one of mmengine's ``BaseModule``.

    Raises:
        CheckpointError: See :func:`load_backbone`.
    """
    others, loads = _split_init_cfg(backbone)
    initialize(backbone, others)
    for options in loads:
        load_backbone(backbone, **options)
    backbone._is_init = True


def init_model(model: BaseModule, draw: Callable[[], None]) -> None:
    """Draw the weights of a whole model, then load the checkpoints of its ``init_cfg``.

    mmengine itself would load what fits and only log the rest.

    Args:
        model (BaseModule): The model.
        draw (Callable): The ``init_weights`` of the model's base class, which applies
            all other entries of ``init_cfg``.

    Raises:
        CheckpointError: If a checkpoint cannot be read or does not fit, see
            :func:`fit_content` with ``complete=False``.
    """
    init_cfg, drawn_before = model.init_cfg, model.is_init
    model.init_cfg, loads = _split_init_cfg(model)
    try:
        draw()
    finally:
        model.init_cfg = init_cfg
    for options in [] if drawn_before else loads:
        _load_what_fits(model, **options)


def _split_init_cfg(module: BaseModule) -> tuple[list[dict], list[dict]]:
    """Split an ``init_cfg`` into other entries and the options of its checkpoints."""
    cfgs = module.init_cfg or []
    cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
    others, loads = [], []
    for cfg in cfgs:
        if cfg['type'] in ('Pretrained', PretrainedInit):
            loads.append({k: v for k, v in cfg.items() if k != 'type'})
        else:
            others.append(cfg)
    return others, loads


def _load_what_fits(
    model: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str = 'cpu',
    trust_checkpoint: bool = False,
):
    """Load a checkpoint that covers the backbone; see :func:`load_backbone`."""
    tensors = read_weights(checkpoint, map_location, trust_checkpoint).tensors
    if prefix is not None:
        tensors, _ = select_under(prefix, tensors, checkpoint)
    content = dict(state_dict=tensors)
    fit_content(model, content, checkpoint, complete=False)
    model.load_state_dict(content['state_dict'], strict=False)


def load_backbone(
    backbone: FitsCheckpoints,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str = 'cpu',
    trust_checkpoint: bool = False,
    inflate: bool = False,
) -> list[str]:
    """Load the backbone of a checkpoint and report what was loaded.

    A backbone's ``init_cfg=dict(type='Pretrained', ...)`` calls this function.

    Args:
        backbone (FitsCheckpoints): The backbone, a module that is changed in place.
        checkpoint (str): See :func:`.files.read_weights`.
        prefix (str, optional): Prefix of the backbone's names in the file. Defaults to
            None: it is found by looking for the patch embedding of a ViT.
        map_location (str): Device of the tensors. Defaults to ``'cpu'``.
        trust_checkpoint (bool): See :func:`.files.read_weights`.
        inflate (bool): Whether to fit the patch embedding of a checkpoint for images of
            another number of channels, such as RGB, to the backbone's ``in_channels``,
            see :func:`.fitting.inflate_channels`. Defaults to False.

    Returns:
        list[str]: The lines of the report, which is also logged.

    Raises:
        CheckpointError: If the file cannot be read, has no such backbone or several, or
            its backbone does not fit.
    """
    checkpoint = find_file(checkpoint)
    tensors = read_weights(checkpoint, map_location, trust_checkpoint).tensors
    tensors, origin = backbone.select(tensors, checkpoint, prefix)
    fitted, report = fit(backbone, tensors)
    if inflate:
        fitted, report = fitting.inflate(fitted, report)
    check_backbone(report, checkpoint, backbone)
    backbone.load_state_dict(fitted, strict=False)
    return log_report(report, f'backbone from {checkpoint}, {origin}')


def load_model(
    model: nn.Module,
    checkpoint: str,
    map_location: str = 'cpu',
    trust_checkpoint: bool = False,
) -> list[str]:
    """Load a checkpoint that holds every tensor of a model.

    Args:
        model (nn.Module): The model, changed in place.
        checkpoint (str): See :func:`.files.read_weights`.
        map_location (str): Device of the tensors. Defaults to ``'cpu'``.
        trust_checkpoint (bool): See :func:`.files.read_weights`.

    Returns:
        list[str]: The lines of the report, which is also logged.

    Raises:
        CheckpointError: If the file cannot be read or does not cover the model.
    """
    tensors = read_weights(checkpoint, map_location, trust_checkpoint).tensors
    fitted, report = fit(model, tensors)
    check_model(report, checkpoint)
    model.load_state_dict(fitted, strict=False)
    return log_report(report, f'model from {checkpoint}')


def fit_content(
    model: nn.Module, content: dict[str, Any], checkpoint: str, complete: bool = True
) -> list[str]:
    """Fit the content of a checkpoint to a model before a runner loads it.

    Args:
        model (nn.Module): The model, or a wrapper of it.
        content (dict): The checkpoint's content. Its ``state_dict`` becomes what the
            model can load.
        checkpoint (str): The checkpoint's name, for messages.
        complete (bool): If True, the checkpoint must have every tensor of the model. If
            False, it must cover the backbone except for the tensors in
            :data:`.coverage.OPTIONAL`, heads may differ, and it may be the checkpoint
            of a backbone alone. A model without a backbone must always be covered
            completely. Defaults to True.

    Returns:
        list[str]: The lines of the report, which is also logged.

    Raises:
        CheckpointError: If the checkpoint does not cover the model or, with
            ``complete=False``, the backbone.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    tensors = unwrap(content, checkpoint).tensors
    backbone = None if complete else dict(model.named_children()).get('backbone')
    source = f'model from {checkpoint}'
    if isinstance(backbone, FitsCheckpoints) and not any(
        key.startswith('backbone.') for key in tensors
    ):
        own, origin = backbone.select(tensors, checkpoint, None)
        tensors = {f'backbone.{key}': tensor for key, tensor in own.items()}
        source = f'backbone from {checkpoint}, {origin}'
    fitted, report = fit(model, tensors)
    if backbone is None:
        check_model(report, checkpoint)
    else:
        check_backbone(report, checkpoint, backbone, 'backbone.')
    # The dict stays the same object, since torch keeps the versions of modules in it.
    state = content.setdefault('state_dict', {})
    state.clear()
    state.update(fitted)
    return log_report(report, source)


def fit_before_loading(
    backbone: FitsCheckpoints, state: StateDict, prefix: str, *args
) -> None:
    """Fit a state dict in place before torch loads it into a backbone.

    This is a hook for ``register_load_state_dict_pre_hook``. ``load_state_dict`` thus
    takes the names and the tables of another size that ``init_cfg`` takes. Names and
    shapes that already are the backbone's, as after any other door, need no fitting.

    Args:
        backbone (FitsCheckpoints): The backbone that torch is about to load.
        state (dict[str, Tensor]): The state dict, changed in place.
        prefix (str): Prefix of the backbone's names in the state dict.
        *args: Further arguments of torch's hook, which are not used.

    Raises:
        CheckpointError: If a tensor cannot be fitted.
    """
    shapes = shapes_of(backbone)
    own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if all(
        key in shapes and tensor.shape == shapes[key] for key, tensor in own.items()
    ):
        return
    for key in own:
        del state[prefix + key]
    fitted, report = fit(backbone, own)
    # torch itself names the tensors that do not fit.
    for tensors in (fitted, report.misshapen, report.unused):
        state.update({prefix + key: tensor for key, tensor in tensors.items()})
    if report.notes:
        log_report(report, 'backbone from a state dict')
