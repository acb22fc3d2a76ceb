"""What the log of a training run shows."""

import re
import time

import pytest
import torch
from helpers.rates import log_of, make_runner
from mmengine.evaluator import BaseMetric
from mmengine.hooks import IterTimerHook, RuntimeInfoHook

from mmmaskdistill.engine.log_hooks import RunTimerHook, validations_left

LINE = re.compile(
    r'\((?P<mode>train|val)\).*?\blr: (?P<lr>\S+)\s+eta: (?P<eta>[\d:]+)\s+'
    r'time: (?P<time>\S+)\s+data_time: (?P<data_time>\S+)'
)


class SlowMetric(BaseMetric):
    """A metric that takes a second to compute."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        time.sleep(1.0)
        return dict(score=1.0)


def validation():
    return dict(
        val_dataloader=dict(
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=[dict(inputs=torch.ones(1))] * 2,
        ),
        val_cfg=dict(),
        val_evaluator=dict(type=SlowMetric),
    )


def lines(runner):
    return [match.groupdict() for match in LINE.finditer(log_of(runner))]


def seconds(eta):
    hours, minutes, rest = map(int, eta.split(':'))
    return 3600 * hours + 60 * minutes + rest


def test_highest_learning_rate_is_logged(tmp_path):
    """The first group has a hundredth of the learning rate of the second one."""
    runner = make_runner(tmp_path, dict(by_epoch=False, max_iters=2), lr=0.05)
    runner.train()
    assert runner.optim_wrapper.param_groups[0]['lr'] == 0.05 / 100
    assert [line['lr'] for line in lines(runner)] == ['5.0000e-02'] * 2


@pytest.mark.parametrize(
    'loop, left',
    [
        # Validations after iterations 2, 4, ..., 40; after 3, 6, ..., 39 and 40.
        (dict(type='IterBasedTrainLoop', max_iters=40, val_interval=2), 18),
        (dict(type='IterBasedTrainLoop', max_iters=40, val_interval=3), 13),
        (
            dict(type='IterBasedTrainLoop', max_iters=40, val_interval=2, val_begin=21),
            10,
        ),
        # Three iterations per epoch.
        (dict(by_epoch=True, max_epochs=14, val_interval=1), 13),
        (dict(by_epoch=True, max_epochs=14, val_interval=5), 3),
    ],
)
def test_eta_includes_validations(tmp_path, loop, left):
    """The eta after iteration 5, when a validation is known to take a second."""

    class StopAt(RunTimerHook):
        def after_train_iter(self, runner, *args, **kwargs):
            runner.message_hub.update_info('validation_seconds', 1.0)
            super().after_train_iter(runner, *args, **kwargs)
            if runner.iter == 4:
                counts.append(validations_left(runner))
                etas.append(runner.message_hub.get_info('eta'))
                runner.train_loop.stop_training = True

    counts, etas = [], []
    runner = make_runner(tmp_path, loop, **validation())
    runner._hooks = [h for h in runner._hooks if not isinstance(h, RunTimerHook)]
    runner.register_hook(StopAt())
    runner.train()
    assert counts == [left] and etas[0] >= left


def test_duration_of_a_validation_is_measured_and_not_counted_as_waiting(tmp_path):
    loop = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    runner = make_runner(tmp_path, loop, **validation())
    runner.train()
    assert runner.message_hub.get_info('validation_seconds') >= 1.0
    train = [line for line in lines(runner) if line['mode'] == 'train']
    assert len(train) == 4
    waited, _ = runner.message_hub.get_scalar('train/data_time').data
    assert max(waited) < 1.0
    # One more validation follows iteration 3.
    assert seconds(train[2]['eta']) >= 1 and seconds(train[3]['eta']) >= 1


def test_hooks_of_the_config_stay(tmp_path):
    class OwnTimer(IterTimerHook):
        pass

    def kinds(**hooks):
        runner = make_runner(tmp_path, dict(by_epoch=False, max_iters=1))
        runner._hooks = []
        runner.register_default_hooks(hooks)
        return [
            type(hook).__name__
            for hook in runner._hooks
            if isinstance(hook, (IterTimerHook, RuntimeInfoHook))
        ]

    assert kinds() == ['HighestRateHook', 'RunTimerHook']
    mmseg = dict(timer=dict(type='mmengine.IterTimerHook'))
    assert kinds(**mmseg) == ['HighestRateHook', 'RunTimerHook']
    assert kinds(timer=OwnTimer()) == ['HighestRateHook', 'OwnTimer']
    assert kinds(timer=None) == ['HighestRateHook']
