"""Runs whose teacher is the moving average of the student, in one or more processes."""

import torch
from helpers import tiny
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmpretrain.structures import DataSample

from mmmaskdistill.engine import ResumableRunner


def build(momentum=0.9, **kwargs):
    torch.manual_seed(0)
    return tiny.build(
        **{
            'backbone': dict(tiny.STUDENT, arch=dict(tiny.ARCH, num_layers=3)),
            'teacher': dict(
                type='mmmaskdistill.MomentumTeacher', momentum=momentum, num_layers=2
            ),
            'head': dict(tiny.LINEAR, out_channels=24),
            'loss': dict(type='mmmaskdistill.SmoothL1Loss', beta=2.0),
            **kwargs,
        }
    )


def batch():
    mask = torch.arange(16) < 6
    return torch.randn(2, 3, 64, 64), [DataSample().set_mask(mask)] * 2


def dataloader(count):
    torch.manual_seed(1)
    images = torch.randn(count, 3, 64, 64)
    samples = [DataSample().set_mask(torch.arange(16) < 6)] * count
    return dict(
        batch_size=2,
        sampler=dict(type='DefaultSampler'),
        collate_fn=dict(type='default_collate'),
        dataset=[dict(inputs=x, data_samples=s) for x, s in zip(images, samples)],
    )


def make_runner(
    work_dir,
    iterations,
    resume=False,
    accumulate=1,
    hooks=(),
    model=None,
    samples=2,
    **kwargs,
):
    """A run that saves a checkpoint after each iteration."""
    return ResumableRunner(
        model=model or build(data_preprocessor=dict(type='SelfSupDataPreprocessor')),
        work_dir=str(work_dir),
        train_dataloader=dataloader(samples),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=accumulate
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)
        ),
        log_processor=dict(by_epoch=False),
        custom_hooks=[dict(type='mmmaskdistill.MomentumTeacherHook'), *hooks],
        default_scope='mmpretrain',
        resume=resume,
        randomness=dict(seed=0),
        experiment_name=f'{work_dir}{resume}{iterations}',
        **kwargs,
    )


class Recorder(Hook):
    """Keep copies of a weight of the student and the teacher at each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.student, self.teacher = [], []

    def before_train(self, runner):
        self.first = self.model(runner).backbone.cls_token.detach().clone()

    @staticmethod
    def model(runner):
        wrapped = is_model_wrapper(runner.model)
        return runner.model.module if wrapped else runner.model

    def after_train_iter(self, runner, *args, **kwargs):
        model = self.model(runner)
        self.student.append(model.backbone.cls_token.detach().clone())
        self.teacher.append(model.teacher.model.cls_token.clone())
