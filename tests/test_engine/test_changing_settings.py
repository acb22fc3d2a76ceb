"""Masks and weights that change during a run follow its progress, also when resumed."""

import pytest
import torch
from helpers import tiny
from helpers.rates import log_of, rates
from mmengine.hooks import Hook
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mmmaskdistill.datasets import UniformMaskGenerator
from mmmaskdistill.datasets.draws import current_place
from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.schedules import Ramp

LOOPS = {
    'iterations': dict(by_epoch=False, max_iters=8),
    'epochs': dict(by_epoch=True, max_epochs=2),
}


class MaskedPictures(Dataset):
    """Eight pictures with masks that hide more and more patches."""

    def __init__(self):
        self.generate = UniformMaskGenerator(
            4, dict(start=2, end=10), unmasked_batches=0.3
        )

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(int(index))
        sample = DataSample().set_mask(torch.from_numpy(self.generate({})['mask']))
        sample.set_metainfo(dict(uniform=current_place().uniform))
        return dict(
            inputs=torch.randn(3, 64, 64, generator=generator), data_samples=sample
        )


class Recorder(Hook):
    """Keep the masks and the progress of each batch; stop after some iterations."""

    def __init__(self, stop=None):
        self.stop, self.batches = stop, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = data_batch['data_samples']
        self.batches[runner.iter] = [
            (int(s.mask.sum()), s.progress, s.uniform) for s in samples
        ]
        if runner.iter + 1 == self.stop:
            raise KeyboardInterrupt


def train(work_dir, loop, resume=False, stop=None):
    torch.manual_seed(0)
    recorder = Recorder(stop)
    model = tiny.build(
        backbone=dict(tiny.STUDENT, type='mmmaskdistill.AllTokensViT'),
        data_preprocessor=dict(type='SelfSupDataPreprocessor'),
        predict='all',
        visible_weight=dict(start=1, end=0.2),
    )
    runner = ResumableRunner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=2,
            persistent_workers=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=MaskedPictures(),
        ),
        train_cfg=dict(LOOPS[loop]),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)
        ),
        log_processor=dict(by_epoch=False),
        custom_hooks=[recorder],
        default_scope='mmpretrain',
        resume=resume,
        randomness=dict(seed=3),
        experiment_name=f'{work_dir}{loop}{resume}{stop}',
    )
    if stop is None:
        runner.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return recorder.batches, model.state_dict()


@pytest.mark.parametrize('loop', LOOPS)
def test_hidden_patches_and_weight_follow_the_progress(tmp_path, loop):
    whole, weights = train(tmp_path / 'whole', loop)
    assert list(whole) == list(range(8))
    ramp = Ramp(2, 10)
    for iteration, samples in whole.items():
        (batch,) = set(samples)  # All samples of a batch are alike.
        hidden, progress, uniform = batch
        assert progress == iteration / 8
        assert hidden == (0 if uniform < 0.3 else round(ramp(iteration / 8)))
    hidden = [samples[0][0] for samples in whole.values()]
    assert 0 in hidden and max(hidden) >= 8

    first, _ = train(tmp_path / 'parts', loop, stop=6)
    rest, resumed = train(tmp_path / 'parts', loop, resume=True)
    # The checkpoint of the last iteration was not written.
    assert {**first, **rest} == whole and min(rest) in (5, 6)
    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)


def test_a_run_that_is_complete_says_so(tmp_path):
    loop = dict(type='IterBasedTrainLoop', max_iters=3)
    rates(tmp_path, loop)
    for length in (3, 2):
        runner, seen = rates(tmp_path, dict(loop, max_iters=length), resume=True)
        assert seen == {}
        assert (
            f'the checkpoint is one after 3 iterations, and this config asks for '
            f'{length}, so nothing is left to train: set train_cfg.max_iters to more '
            'than 3'
        ) in log_of(runner)
