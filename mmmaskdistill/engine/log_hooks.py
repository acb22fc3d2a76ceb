"""Hooks that compute what the log shows during training."""

import time

from mmengine.hooks import IterTimerHook, RuntimeInfoHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmmaskdistill.registry import HOOKS

# A forward pass takes about a third of a training step. This serves to estimate the
# time of the first validation, before one was measured.
FORWARD_SHARE = 1 / 3


@HOOKS.register_module()
class HighestRateHook(RuntimeInfoHook):
    """Log the highest learning rate of all parameter groups as ``lr``.

    mmengine's hook logs that of the first group. With layer-wise decay this is the
    lowest one, thousands of times less than the rate at which the head learns.
    """

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Record the iteration and the learning rates.

        Args:
            runner (Runner): The runner of the training.
            *args: Further arguments of mmengine's hook, which are ignored.
            **kwargs: Further arguments of mmengine's hook, which are ignored.
        """
        runner.message_hub.update_info('iter', runner.iter)
        for name, rates in runner.optim_wrapper.get_lr().items():
            runner.message_hub.update_scalar(f'train/{name}', max(rates))


@HOOKS.register_module()
class RunTimerHook(IterTimerHook):
    """Measure times, and estimate when the whole run will end, validations included.

    mmengine's hook estimates the time of the remaining iterations only, and counts
    the end of each validation as time that the next batch was waited for.
    """

    def __init__(self):
        super().__init__()
        self.began = self.validation_began = time.time()
        self.spent_on_validation = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock.

        Args:
            runner (Runner): The runner of the training.
        """
        super().before_train(runner)
        self.began = time.time()
        self.spent_on_validation = 0.0

    def before_val(self, runner: Runner) -> None:
        """Start the clock of a validation.

        Args:
            runner (Runner): The runner.
        """
        self.validation_began = time.time()

    def after_val(self, runner: Runner) -> None:
        """Record the duration of a validation, including that of its metrics.

        Args:
            runner (Runner): The runner.
        """
        self.t = time.time()
        duration = self.t - self.validation_began
        self.spent_on_validation += duration
        # The message hub is part of a checkpoint, so that a resumed run knows the
        # duration before its first validation.
        runner.message_hub.update_info('validation_seconds', duration)

    def _after_iter(self, runner: Runner, *args, mode: str = 'train', **kwargs):
        super()._after_iter(runner, *args, mode=mode, **kwargs)
        if mode != 'train':
            return
        spent = self.t - self.began - self.spent_on_validation
        per_iteration = spent / (runner.iter - self.start_iter + 1)
        left = per_iteration * (runner.max_iters - runner.iter - 1)
        validations = validations_left(runner)
        if validations:
            left += validations * validation_seconds(runner, per_iteration)
        runner.message_hub.update_info('eta', left)


def validations_left(runner: Runner) -> int:
    """Count the validations that a run in training will still make.

    Args:
        runner (Runner): The runner, in one of mmengine's training loops.

    Returns:
        int: The number of validations after the current iteration or epoch, if
        their interval does not change.
    """
    loop = runner.train_loop
    if runner.val_loop is None:
        return 0
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (
        (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    )
    before = max(done, loop.val_begin - 1)
    if last <= before:
        return 0
    interval = loop.val_interval
    return last // interval - before // interval + (last % interval > 0)


def validation_seconds(runner: Runner, per_iteration: float) -> float:
    """Return the duration of the last validation, or else an estimate.

    Args:
        runner (Runner): The runner.
        per_iteration (float): Duration of a training iteration in seconds.

    Returns:
        float: The duration of a validation in seconds.
    """
    measured = runner.message_hub.runtime_info.get('validation_seconds')
    if measured is not None:
        return measured
    loaders = runner.val_dataloader, runner.train_dataloader
    images = [len(loader) * _batch_size(loader) for loader in loaders]
    passes = images[0] / max(images[1], 1)
    return FORWARD_SHARE * per_iteration * passes * len(runner.train_dataloader)


def _batch_size(loader: DataLoader) -> int:
    return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)
