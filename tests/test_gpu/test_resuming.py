"""A resumed run has exactly the weights of an uninterrupted one."""

import contextlib

import mmengine.runner.runner
import pytest
import torch
from helpers.training_steps import batch, pretraining
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook

from mmmaskdistill.engine import ResumableRunner


class Samples(BaseDataset):
    """Twelve samples of the tiny model."""

    def full_init(self):
        self.batches = [batch(number, size=1) for number in range(12)]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        data = self.batches[index]
        return dict(inputs=data['inputs'][0], data_samples=data['data_samples'][0])


class Stop(Exception):
    pass


class StopAt(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            raise Stop


@pytest.fixture
def train(tmp_path, device, monkeypatch):
    """Train for six iterations, with deterministic operators."""
    monkeypatch.setattr(mmengine.runner.runner, 'get_device', lambda: str(device))

    def train(name, precision, resume=False, stop_at=None):
        wrappers = dict(
            float32='OptimWrapper',
            bfloat16='mmmaskdistill.Bfloat16OptimWrapper',
            float16='AmpOptimWrapper',
        )
        runner = ResumableRunner(
            model=pretraining(device, drop_path_rate=0.3),
            work_dir=str(tmp_path / name),
            train_dataloader=dict(
                batch_size=4,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=Samples(),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=6),
            optim_wrapper=dict(
                type=wrappers[precision],
                optimizer=dict(type='AdamW', lr=1e-3),
                clip_grad=dict(max_norm=3.0),
            ),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
                logger=dict(type='LoggerHook', interval=1),
            ),
            custom_hooks=[StopAt(stop_at)] if stop_at else [],
            resume=resume,
            randomness=dict(seed=0, deterministic=True),
            experiment_name=f'{name}{resume}',
            default_scope='mmpretrain',
        )
        with contextlib.suppress(Stop):
            runner.train()
        return {k: v.cpu() for k, v in runner.model.state_dict().items()}

    yield train
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'float16'])
def test_resumed_run_equals_an_uninterrupted_one(train, device, precision):
    if precision == 'float16' and device.type == 'cpu':
        pytest.skip('needs a GPU')
    whole = train('whole', precision)
    train('parts', precision, stop_at=4)
    resumed = train('parts', precision, resume=True)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
