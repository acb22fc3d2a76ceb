"""Runs of a model with two parameters, whose learning rates are recorded."""

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from mmmaskdistill.engine import ResumableRunner


class TwoGroups(BaseModel):
    """A model of two parameters, of which the first has a small learning rate."""

    def __init__(self):
        super().__init__()
        self.low = nn.Parameter(torch.ones(1))
        self.high = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='tensor'):
        loss = (self.low * self.high * torch.stack(inputs)).square().mean()
        return [loss] if mode == 'predict' else dict(loss=loss)


class Rates(Hook):
    """Record the highest learning rate of each iteration."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, *args, **kwargs):
        self.seen[runner.iter] = max(runner.optim_wrapper.get_lr()['lr'])


def make_runner(
    work_dir,
    train_cfg,
    param_scheduler=None,
    samples=6,
    batch_size=2,
    lr=0.1,
    hooks=(),
    resume=False,
    sampler='DefaultSampler',
    checkpoint=None,
    weight_decay=0.0,
    paramwise_cfg=dict(custom_keys=dict(low=dict(lr_mult=0.01))),  # noqa: B006
    **kwargs,
):
    return ResumableRunner(
        model=dict(type=TwoGroups),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=batch_size,
            sampler=dict(type=sampler),
            dataset=[dict(inputs=torch.ones(1))] * samples,
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=lr, weight_decay=weight_decay),
            paramwise_cfg=paramwise_cfg,
        ),
        param_scheduler=param_scheduler,
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=checkpoint
            or dict(type='CheckpointHook', by_epoch=False, interval=1),
        ),
        custom_hooks=list(hooks),
        resume=resume,
        randomness=dict(seed=0),
        experiment_name=f'{work_dir}{resume}{train_cfg}{lr}',
        **kwargs,
    )


def rates(*args, **kwargs):
    """Train, and return the runner and the highest learning rate per iteration."""
    hook = Rates()
    runner = make_runner(*args, hooks=[hook, *kwargs.pop('hooks', ())], **kwargs)
    runner.train()
    return runner, hook.seen


def log_of(runner):
    with open(f'{runner.log_dir}/{runner.timestamp}.log') as log:
        return log.read()
