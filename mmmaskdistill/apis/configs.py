"""Read a config and apply the options of the command line to it.

A config belongs to mmpretrain (pre-training and classification) or to mmseg
(segmentation). An option has the same effect on it as in the toolkit's own tools.
"""

import os.path as osp
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.engine.checkpoints import latest_checkpoint
from mmmaskdistill.errors import ConfigError, first_line
from mmmaskdistill.models.checkpoints.files import find_file
from mmmaskdistill.registry import RUNNERS

from .option_values import read_value
from .pipelines import loads


def load_config(
    path: str,
    options: Sequence[str] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config and apply the options that all commands share.

    Args:
        path (str): Path of the config file.
        options (Sequence[str], optional): Overrides of the form ``key=value``.
            Defaults to None.
        work_dir (str, optional): Folder that the run writes to. Defaults to
            None, which means the config's ``work_dir`` or, if it has none,
            ``work_dirs/NAME_OF_THE_CONFIG``.
        launcher (str): mmengine's ``launcher``, the program that starts the
            processes of a distributed run. Defaults to ``'none'``, a single
            process.

    Returns:
        Config: The config with all overrides, a work dir and complete data
        loaders.

    Raises:
        ConfigError: If the file, or a file that it inherits from, is missing or is no
            correct Python, or if an override is wrong (see :func:`change_config`).
    """
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f'config {path!r} or a file that it inherits from is missing: {error}'
        ) from error
    except Exception as error:  # A config is Python, and may raise anything.
        raise ConfigError(
            f'config {path!r} cannot be read: {type(error).__name__}: '
            f'{first_line(error)}'
        ) from error
    if options:
        change_config(cfg, options)
    cfg.launcher = launcher
    default = osp.join('work_dirs', osp.splitext(osp.basename(path))[0])
    cfg.work_dir = work_dir or cfg.get('work_dir') or default
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name):
            complete_dataloader(cfg[name], scope=cfg.get('default_scope'))
    return cfg


def change_config(cfg: Config, options: Sequence[str]) -> None:
    """Override values of a config in place.

    Args:
        cfg (Config): The config to change.
        options (Sequence[str]): Overrides of the form ``key=value``, whose values
            are read by :func:`read_value`. The key of a nested value has dots,
            such as ``optim_wrapper.optimizer.lr=1e-4``.

    Raises:
        ConfigError: If an override has no ``=``, if a key lies inside a number, or
            if a key asks for a list item that does not exist.
    """
    values = {}
    for option in options:
        key, equals, text = option.partition('=')
        if key != key.strip():  # 'KEY = VALUE' in quotes
            key, text = key.strip(), text.strip()
        if not equals or not key:
            raise ConfigError(
                f'--cfg-options {option!r} is not of the form KEY=VALUE: put quotes '
                'around a value with spaces, and no spaces around the "="'
            )
        values[key] = read_value(text, key)
    # What is deleted goes first, whatever the order on the command line is.
    for key in sorted(values, key=lambda key: not key.endswith('_delete_')):
        value = values[key]
        _check_parents(cfg, key)
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(
                f'--cfg-options {key}={value!r} does not fit the config: '
                f'{first_line(error)}'
            ) from error


def _check_parents(cfg: Config, key: str) -> None:
    """Refuse a key inside a number, or a name inside a list."""
    node, names = cfg, key.split('.')
    for k, name in enumerate(names[:-1]):
        parent = '.'.join(names[: k + 1])
        node = node[int(name)] if isinstance(node, list) else node.get(name)
        following = names[k + 1]
        if isinstance(node, tuple):
            raise ConfigError(
                f'--cfg-options {key} cannot be set alone: give all of {parent}, '
                f'which is {node}'
            )
        if isinstance(node, list) and (
            not following.isdigit() or int(following) >= len(node)
        ):
            raise ConfigError(
                f'--cfg-options {key} does not exist: {parent} is a list of '
                f'{len(node)} items, which are named {parent}.0 and so on'
            )
        if isinstance(node, (int, float)) and not isinstance(node, bool):
            raise ConfigError(
                f'--cfg-options {key} does not exist: {parent} is the number {node}'
            )
        if not isinstance(node, (dict, list)):
            return


def complete_dataloader(loader: ConfigDict, scope: str | None) -> None:
    """Fill in the settings that a toolkit's own command gives a data loader.

    mmpretrain's base configs do not contain ``collate_fn``, ``pin_memory`` and
    ``persistent_workers`` because mmpretrain's command adds them. Settings that
    do not work without worker processes or without a GPU are switched off.

    Args:
        loader (ConfigDict): Config of the data loader, changed in place.
        scope (str | None): The config's ``default_scope``, such as
            ``mmpretrain``.
    """
    if scope == 'mmpretrain':
        loader.setdefault('collate_fn', dict(type='default_collate'))
        loader.setdefault('pin_memory', True)
        loader.setdefault('persistent_workers', True)
    if not loader.get('num_workers'):
        loader.persistent_workers = False  # torch raises an error otherwise.
    if loader.get('pin_memory') and not torch.cuda.is_available():
        loader.pin_memory = False  # torch warns in every epoch otherwise.


def set_resume(cfg: Config, resume: str | None) -> str:
    """Let a run resume from a checkpoint.

    Args:
        cfg (Config): The config, changed in place.
        resume (str | None): Path of a checkpoint, or ``auto`` for the latest
            checkpoint in the work dir, if there is one. None leaves the
            config's own setting as it is.

    Returns:
        str: A message for the user that says what the run will do. Empty if
        ``resume`` is None.
    """
    if resume is None:
        return ''
    cfg.resume = True
    if resume != 'auto':
        cfg.load_from = resume
        return f'resuming from {resume}'
    latest = latest_checkpoint(cfg.work_dir)
    if latest is None:
        cfg.resume = False
        return f'no checkpoint in {cfg.work_dir} yet: starting anew'
    cfg.load_from = latest
    return f'resuming from {latest}'


def enable_amp(cfg: Config) -> None:
    """Let a run train in mixed precision.

    Args:
        cfg (Config): The config, changed in place.

    Raises:
        ConfigError: If the config's optimizer wrapper is neither
            ``OptimWrapper`` nor ``AmpOptimWrapper``.
    """
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp needs optim_wrapper.type=OptimWrapper, but the config has '
            f'{kind!r}: leave out --amp or change the config'
        )
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def enable_lr_scaling(cfg: Config) -> None:
    """Let a run scale the learning rate in proportion to its total batch size.

    Args:
        cfg (Config): The config, changed in place.

    Raises:
        ConfigError: If the config does not say for which batch size its
            learning rate is meant (``auto_scale_lr.base_batch_size``).
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ConfigError(
            '--auto-scale-lr needs the batch size for which the learning rate '
            'is meant: add --cfg-options auto_scale_lr.base_batch_size=N'
        )
    cfg.auto_scale_lr.enable = True


def set_test(cfg: Config, checkpoint: str, amp: bool = False) -> None:
    """Let a run evaluate a checkpoint.

    The files of the weights that training started from need not exist.

    Args:
        cfg (Config): The config, changed in place.
        checkpoint (str): See :func:`.files.find_file`.
        amp (bool): Whether to test in mixed precision. Defaults to False.

    Raises:
        ConfigError: If the config has no ``test_dataloader``.
        CheckpointError: If there is no such checkpoint.
    """
    if not cfg.get('test_dataloader'):
        raise ConfigError(
            'the config has no test_dataloader: there is nothing to test. To '
            'evaluate pre-training, fine-tune a model from its checkpoint and '
            'test that model'
        )
    cfg.load_from = find_file(checkpoint)
    cfg.resume = False
    if amp:
        cfg.test_cfg.fp16 = True


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config describes.

    Args:
        cfg (Config): The config.

    Returns:
        Runner: A runner of the config's ``runner_type``, or a
        :class:`ResumableRunner` if the config has none.

    Raises:
        CheckpointError: If a :class:`ResumableRunner` is to resume from a
            checkpoint that does not exist, cannot be read or holds only
            weights.
    """
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return ResumableRunner.from_cfg(cfg)


def disable_validation(cfg: Config) -> None:
    """Let a run train without validation.

    Args:
        cfg (Config): The config, changed in place.
    """
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


def enable_pictures(
    cfg: Config,
    show_dir: str | None,
    show: bool = False,
    wait_time: float = 2,
    interval: int = 1,
) -> None:
    """Let a run draw its predictions while it tests.

    Args:
        cfg (Config): The config, changed in place.
        show_dir (str | None): Folder that the pictures are written to. If it
            is None, no folder is set.
        show (bool): Whether to show the pictures in a window. Defaults to
            False.
        wait_time (float): Number of seconds that a window stays open. Defaults
            to 2.
        interval (int): Draw one of every ``interval`` samples (mmpretrain) or
            batches (mmseg). Defaults to 1.

    Raises:
        ConfigError: If the config has no visualization hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ConfigError(
            '--show and --show-dir need a hook that draws: set '
            'default_hooks.visualization in the config to VisualizationHook '
            '(mmpretrain) or SegVisualizationHook (mmseg)'
        )
    hook.update(show=show, wait_time=wait_time, interval=interval)
    if hook.type.endswith('SegVisualizationHook'):
        hook.draw = True
        if show_dir:
            cfg.visualizer.save_dir = show_dir
    else:
        hook.enable = True
        hook.out_dir = show_dir


def enable_tta(cfg: Config) -> None:
    """Let a run average its predictions over test-time augmentations.

    A classification config without test-time augmentations averages over each
    image and its horizontal flip, as mmpretrain's command does. Images and labels are
    loaded as in the test pipeline.

    Args:
        cfg (Config): The config, changed in place.

    Raises:
        ConfigError: If the config has no ``tta_model`` or no ``tta_pipeline``
            and is not a config of mmpretrain.
    """
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='mmpretrain.AverageClsScoreTTA'))
        if 'tta_pipeline' not in cfg:
            cfg.tta_pipeline = _flip_pipeline(cfg.test_dataloader.dataset.pipeline)
    if not ('tta_model' in cfg and 'tta_pipeline' in cfg):
        raise ConfigError(
            '--tta needs test-time augmentations: set tta_model and tta_pipeline '
            'in the config'
        )
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = _load_alike(cfg.tta_pipeline, dataset.pipeline)
    # mmengine gives the config's own one to the model in place of the model's.
    if cfg.model.get('data_preprocessor') is not None:
        cfg.data_preprocessor = cfg.model.data_preprocessor
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)


def _load_alike(pipeline: list, example: list) -> list:
    """Replace the loading steps of a pipeline by those of another one.

    A list of alternatives that is left without a step is removed, since there are no
    views without it.
    """
    loaders = {}
    for step in example:
        loaders.setdefault(loads(step), step)

    def replace(step: dict) -> dict | None:
        kind = loads(step)
        return deepcopy(loaders.get(kind)) if kind else step

    return _with_steps(pipeline, replace)


def without_label_loaders(pipeline: list) -> list:
    """Remove the steps of a pipeline that load labels.

    Args:
        pipeline (list): Configs of the steps.

    Returns:
        list: The configs of the other steps.
    """
    return _with_steps(pipeline, lambda s: None if loads(s) == 'labels' else s)


def _with_steps(node: dict | list | tuple, change: Callable) -> dict | list | None:
    """Change each step of a pipeline, also inside of others; None removes it."""
    if isinstance(node, (list, tuple)):
        steps = [_with_steps(step, change) for step in node]
        return [step for step in steps if step not in (None, [])]
    node = change(node)
    if node is not None and 'transforms' in node:
        return ConfigDict(node, transforms=_with_steps(node['transforms'], change))
    return node


def _flip_pipeline(pipeline: list) -> list:
    *transforms, pack = deepcopy(pipeline)
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return [*transforms, dict(type='TestTimeAug', transforms=[flips, [pack]])]
