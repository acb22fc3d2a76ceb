from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmmaskdistill.compat  # noqa: F401


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x, mode='tensor'):
        y = self.linear(torch.stack(x))
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Points(Dataset):
    metainfo = dict(classes=('point',), palette=[[1, 2, 3]])

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return dict(x=torch.tensor([i, 1.0]))


class Count(BaseMetric):
    """A metric that returns a numpy scalar, as many metrics do."""

    default_prefix = 'count'

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(total=np.float32(sum(results)))


@pytest.fixture
def build_runner(tmp_path):
    """Build Runners of a tiny model.

    Their checkpoints hold everything that mmengine can write: the log history,
    the scheduler, the optimizer and a best score.
    """

    def build(
        name='run',
        iters=4,
        optim_wrapper='OptimWrapper',
        keep=-1,
        log_interval=1,
        val_interval=2,
        optim_options=None,
        **kwargs,
    ) -> Runner:
        # The Runner sets its seed only after the model has been built.
        torch.manual_seed(0)
        loader = dict(dataset=Points(), batch_size=2, num_workers=0)
        return Runner(
            Model(),
            str(Path(tmp_path) / name),
            train_dataloader=dict(
                sampler=dict(type='InfiniteSampler', shuffle=False), **loader
            ),
            val_dataloader=dict(
                sampler=dict(type='DefaultSampler', shuffle=False), **loader
            ),
            val_evaluator=[Count()],
            val_cfg=dict(),
            train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=val_interval),
            optim_wrapper=dict(type=optim_wrapper, optimizer=dict(type='AdamW', lr=0.1))
            | (optim_options or {}),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=2),
                dict(type='CosineAnnealingLR', by_epoch=False, begin=2, end=8),
            ],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=log_interval),
                checkpoint=dict(
                    type='CheckpointHook',
                    by_epoch=False,
                    interval=2,
                    max_keep_ckpts=keep,
                    save_best='count/total',
                    rule='greater',
                ),
            ),
            randomness=dict(seed=0),
            experiment_name=f'{tmp_path.name}_{name}',
            **kwargs,
        )

    return build
