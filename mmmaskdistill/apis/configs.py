"""What the command line changes in a config of any of the three kinds.

A config is mmpretrain's (pre-training, classification) or mmseg's
(segmentation); the same option means for each what its own tools do.
"""

import os.path as osp
from argparse import ArgumentParser
from collections.abc import Sequence
from copy import deepcopy

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.engine.checkpoints import latest_checkpoint
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import RUNNERS


def load_config(
    path: str,
    options: Sequence[str] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config and apply what every command has in common.

    Args:
        path (str): The config file.
        options (Sequence[str], optional): ``key=value`` overrides.
        work_dir (str, optional): Where the run writes; the config's
            ``work_dir`` or ``work_dirs/<config's name>`` if None.
        launcher (str): mmengine's launcher.
    """
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f'config {path!r} inherits from a file that is missing: {error}'
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
    """Apply ``key=value`` overrides."""
    parser = ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction)
    cfg.merge_from_dict(parser.parse_args(['--options', *options]).options)


def complete_dataloader(loader: ConfigDict, scope: str | None) -> None:
    """Fill in what a toolkit's own command gives its data loaders.

    mmpretrain's base configs leave these to its command.
    """
    if scope == 'mmpretrain':
        loader.setdefault('collate_fn', dict(type='default_collate'))
        loader.setdefault('pin_memory', True)
        loader.setdefault('persistent_workers', True)
    if not loader.get('num_workers'):
        loader.persistent_workers = False  # torch refuses it without workers
    if loader.get('pin_memory') and not torch.cuda.is_available():
        loader.pin_memory = False  # torch warns on every epoch


def set_resume(cfg: Config, resume: str | None) -> str:
    """Resume from a checkpoint, or from the latest one if there is any.

    Args:
        cfg (Config): The config.
        resume (str, optional): A path, ``auto``, or None for the config's.

    Returns:
        str: What will be done, for the user.
    """
    if resume is None:
        return ''
    cfg.resume = True
    if resume != 'auto':
        cfg.load_from = resume
        return f'resuming {resume}'
    latest = latest_checkpoint(cfg.work_dir)
    if latest is None:
        cfg.resume = False
        return f'no checkpoint in {cfg.work_dir} yet: starting anew'
    cfg.load_from = latest
    return f'resuming {latest}'


def enable_amp(cfg: Config) -> None:
    """Train in mixed precision."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp needs optim_wrapper.type OptimWrapper, not {kind!r}: '
            'leave out --amp or change the config'
        )
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def enable_lr_scaling(cfg: Config) -> None:
    """Scale the learning rate with the batch size."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ConfigError(
            '--auto-scale-lr needs the batch size that the learning rate is '
            'for: add --cfg-options auto_scale_lr.base_batch_size=N'
        )
    cfg.auto_scale_lr.enable = True


def set_test(cfg: Config, checkpoint: str, amp: bool = False) -> None:
    """Evaluate a checkpoint.

    The weights that training started from need not be there.
    """
    if not cfg.get('test_dataloader'):
        raise ConfigError(
            'the config has no test_dataloader: there is nothing to test. '
            'Pre-training is judged by what is fine-tuned from it'
        )
    cfg.load_from = checkpoint
    cfg.resume = False
    if amp:
        cfg.test_cfg.fp16 = True


def build_runner(cfg: Config) -> Runner:
    """The config's ``runner_type``, by default one that resumes exactly."""
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return ResumableRunner.from_cfg(cfg)


def disable_validation(cfg: Config) -> None:
    """Train without validating."""
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


def enable_pictures(
    cfg: Config,
    show_dir: str | None,
    show: bool = False,
    wait_time: float = 2,
    interval: int = 1,
) -> None:
    """Draw predictions while testing.

    Args:
        cfg (Config): The config.
        show_dir (str, optional): Folder that the pictures are written to.
        show (bool): Whether to show them in a window.
        wait_time (float): Seconds that a window stays.
        interval (int): Draw every so many samples (mmpretrain) or batches
            (mmseg).
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ConfigError(
            '--show and --show-dir need default_hooks.visualization in the '
            'config: VisualizationHook (mmpretrain) or SegVisualizationHook '
            '(mmseg)'
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
    """Average predictions over the config's test-time augmentations.

    A classification config that names none averages over the flip, as with
    mmpretrain's command.
    """
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='mmpretrain.AverageClsScoreTTA'))
        if 'tta_pipeline' not in cfg:
            cfg.tta_pipeline = _flip_pipeline(cfg.test_dataloader.dataset.pipeline)
    if not ('tta_model' in cfg and 'tta_pipeline' in cfg):
        raise ConfigError('--tta needs tta_model and tta_pipeline in the config')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)


def _flip_pipeline(pipeline: list) -> list:
    *transforms, pack = deepcopy(pipeline)
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return [*transforms, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def save_label_maps(cfg: Config, folder: str) -> None:
    """Let the segmentation metrics write their predictions as PNG files."""
    evaluators = cfg.test_evaluator
    if isinstance(evaluators, dict):
        evaluators = [evaluators]
    writers = [
        metric
        for metric in evaluators
        if metric.type.split('.')[-1] in ('IoUMetric', 'CityscapesMetric')
    ]
    if not writers:
        raise ConfigError(
            f'--out {folder!r} is a folder, and no metric of the config '
            'writes label maps: give a .pkl file for predictions or a .json '
            'file for metrics'
        )
    for metric in writers:
        metric.output_dir = folder
