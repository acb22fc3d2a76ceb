"""Epochs and validations end, whatever sampler a base config has."""

import itertools
from collections import Counter

import pytest
import torch
from helpers.rates import log_of, make_runner
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS

from mmmaskdistill.errors import ConfigError


@DATA_SAMPLERS.register_module(force=True)
class OwnEndlessSampler:
    def __init__(self, dataset, seed=None):
        self.dataset = dataset

    def __iter__(self):
        return itertools.cycle(range(len(self.dataset)))

    def __len__(self):
        return len(self.dataset)


class Seen(Hook):
    def __init__(self):
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch):
        self.images.append((runner.epoch, [int(x) for x in data_batch['inputs']]))


def train(tmp_path, loop, sampler, num_workers=0, **kwargs):
    seen = Seen()
    runner = make_runner(tmp_path, loop, sampler=sampler, hooks=[seen], **kwargs)
    runner._train_dataloader.update(
        dataset=[dict(inputs=torch.tensor([float(k)])) for k in range(5)],
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    runner.train()
    return runner, seen.images


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'OwnEndlessSampler'])
def test_epochs_end(tmp_path, sampler, num_workers):
    loop = dict(type='EpochBasedTrainLoop', max_epochs=3)
    runner, images = train(tmp_path, loop, sampler, num_workers)
    assert runner.iter == 9 and runner.epoch == 3
    assert Counter(epoch for epoch, _ in images) == {0: 3, 1: 3, 2: 3}
    if sampler == 'InfiniteSampler':
        for k in range(3):
            epoch = [i for e, batch in images if e == k for i in batch]
            # The sampler repeats images until all batches are full or drops none.
            assert set(epoch) == set(range(5))
        assert (
            'an epoch has an end and train_dataloader.sampler.type=InfiniteSampler '
            'has none: DefaultSampler is used'
        ) in log_of(runner)


def test_iterations_go_on_with_any_sampler(tmp_path):
    loop = dict(type='IterBasedTrainLoop', max_iters=8)
    for sampler in ('DefaultSampler', 'InfiniteSampler', 'OwnEndlessSampler'):
        runner, images = train(tmp_path / sampler, loop, sampler)
        assert runner.iter == len(images) == 8


def test_validation_without_an_end_is_refused(tmp_path):
    runner = make_runner(
        tmp_path,
        dict(by_epoch=False, max_iters=1),
        val_dataloader=dict(
            batch_size=1,
            sampler=dict(type='InfiniteSampler'),
            dataset=[dict(inputs=torch.ones(1))],
        ),
        val_cfg=dict(),
        val_evaluator=[],
    )
    with pytest.raises(ConfigError) as error:
        runner.train()
    assert str(error.value) == (
        'val_dataloader.sampler is an InfiniteSampler, so that it would never end: '
        'set val_dataloader.sampler.type=DefaultSampler and '
        'val_dataloader.sampler.shuffle=False'
    )
