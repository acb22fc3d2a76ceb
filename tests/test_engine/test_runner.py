import contextlib
import os

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import IterBasedTrainLoop
from torch import nn

import mmmaskdistill  # noqa: F401
from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.engine.checkpoints import (
    latest_checkpoint,
    read_resume_point,
)
from mmmaskdistill.errors import CheckpointError


class RandomSamples(BaseDataset):
    """A dataset of random samples, which records the requested indices."""

    METAINFO = dict(classes=('a', 'b'))
    requested = []

    def full_init(self):
        pass

    def __len__(self):
        return 10

    def __getitem__(self, index):
        RandomSamples.requested.append(index)
        return self.pipeline(dict(inputs=torch.rand(4) + float(np.random.rand())))


class DropoutModel(BaseModel):
    """A model with dropout, buffers and batch statistics."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width),
            nn.BatchNorm1d(width),
            nn.Dropout(0.5),
            nn.Linear(width, 1),
        )

    def forward(self, inputs, mode='tensor'):
        loss = self.layers(torch.stack(inputs)).square().mean()
        return [loss] if mode == 'predict' else dict(loss=loss)


class LossMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(loss=torch.stack(results).mean().item())


class Stop(Exception):
    pass


class StopAt(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            raise Stop


class StopInValidation(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_val_iter(self, runner, *args, **kwargs):
        if runner.iter == self.iteration:
            raise Stop


class Scores(Hook):
    """Record the iteration and the result of every validation."""

    def __init__(self):
        self.seen = []

    def after_val_epoch(self, runner, metrics):
        self.seen.append((runner.iter, metrics['loss']))


def train(
    work_dir,
    by_epoch=True,
    stop_at=None,
    resume=False,
    num_workers=0,
    sampler='DefaultSampler',
    loop=None,
    checkpoint=None,
    seed=None,
    load_from=None,
    width=8,
    accumulate=1,
    val_interval=None,
    hooks=(),
    **dataloader,
):
    """Train for 13 iterations, or for 4 epochs of 3 iterations.

    Args:
        work_dir (Path): The folder of the run.
        stop_at (int, optional): Iteration after which the run is stopped.
        hooks (Sequence): Additional custom hooks.
        **dataloader: Additional options of the training data loader.

    Returns:
        ResumableRunner: The runner, after training or after it was stopped.
    """
    if loop is None:
        loop = (
            dict(by_epoch=True, max_epochs=4)
            if by_epoch
            else dict(type='IterBasedTrainLoop', max_iters=13)
        )
    validation = {}
    if val_interval:
        loop['val_interval'] = val_interval
        validation = dict(
            val_dataloader=dict(
                dataset=[dict(inputs=torch.ones(4))] * 2,
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            val_cfg=dict(),
            val_evaluator=dict(type=LossMetric),
        )
    runner = ResumableRunner(
        # A config, so that the runner builds the model with the run's seed.
        model=dict(type=DropoutModel, width=width),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=dict(type=sampler),
            dataset=RandomSamples(),
            **dataloader,
        ),
        train_cfg=loop,
        optim_wrapper=dict(
            accumulative_counts=accumulate, optimizer=dict(type='AdamW', lr=0.01)
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, end=5, by_epoch=False),
            dict(type='CosineAnnealingLR', begin=5, by_epoch=False),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint={
                **dict(
                    type='CheckpointHook',
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else 5,
                ),
                **(checkpoint or {}),
            },
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1), *hooks]
        + ([StopAt(stop_at)] if stop_at else []),
        load_from=load_from,
        resume=resume,
        randomness=dict(seed=seed),
        experiment_name=f'{work_dir}{resume}',
        **validation,
    )
    with contextlib.suppress(Stop):
        runner.train()
    return runner


def parameters(runner):
    ema = next(hook for hook in runner._hooks if hasattr(hook, 'ema_model'))
    return {
        **runner.model.state_dict(),
        **{f'ema.{k}': v for k, v in ema.ema_model.state_dict().items()},
    }


def assert_same(a, b):
    a, b = parameters(a), parameters(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize(
    'case',
    [
        dict(by_epoch=True),
        dict(by_epoch=True, num_workers=2),
        dict(by_epoch=True, sampler='mmpretrain.RepeatAugSampler'),
        dict(by_epoch=True, drop_last=True),
        dict(by_epoch=True, accumulate=3),
        dict(by_epoch=True, num_batch_per_epoch=2),
        dict(by_epoch=True, checkpoint=dict(by_epoch=False, interval=5)),
        # Such a checkpoint is written after the last iteration of an epoch, when
        # the epoch does not count as finished yet.
        dict(by_epoch=True, checkpoint=dict(by_epoch=False, interval=3)),
        dict(by_epoch=False),
        dict(by_epoch=False, sampler='InfiniteSampler'),
        dict(by_epoch=False, sampler='InfiniteSampler', num_workers=2),
        dict(by_epoch=False, loop=dict(by_epoch=False, max_iters=13)),
    ],
    ids=lambda case: ' '.join(f'{k}={v}' for k, v in case.items()),
)
def test_resumed_run_equals_uninterrupted_one(tmp_path, case):
    """The resumed run has no configured seed: it must use the checkpoint's."""
    whole = train(tmp_path / 'whole', seed=7, **case)
    train(tmp_path / 'parts', seed=7, stop_at=7, **case)
    RandomSamples.requested.clear()
    resumed = train(tmp_path / 'parts', resume=True, **case)
    assert resumed.seed == 7
    assert resumed.iter == whole.iter and resumed.epoch == whole.epoch
    assert_same(whole, resumed)
    for group, other in zip(
        whole.optim_wrapper.param_groups, resumed.optim_wrapper.param_groups
    ):
        assert group['lr'] == other['lr']
    losses = [
        runner.message_hub.get_scalar('train/loss').data[0]
        for runner in (whole, resumed)
    ]
    np.testing.assert_array_equal(*losses)
    assert resumed.train_dataloader.dataset.metainfo == RandomSamples.METAINFO
    if not case.get('num_workers') and not case['by_epoch']:
        # Samples of finished iterations are not loaded again. The remaining
        # iterations need at most 8 batches of 4 samples.
        assert len(RandomSamples.requested) <= 32


def test_random_numbers_do_not_repeat(tmp_path):
    """Iterations and samples all have different random numbers."""
    seen = []

    class Listen(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch):
            seen.append(
                (torch.rand(()).item(), *(x[0].item() for x in data_batch['inputs']))
            )

    runner = train(tmp_path, by_epoch=False, stop_at=1, seed=1)
    runner.register_hook(Listen(), 'VERY_LOW')
    runner._hooks = [h for h in runner._hooks if not isinstance(h, StopAt)]
    runner.train_loop.run()
    values = [value for row in seen for value in row]
    assert len(values) > 40 and len(set(values)) == len(values)


@pytest.mark.parametrize(
    'by_epoch, val_interval, checkpoint, stop, resumed',
    [
        (True, 1, {}, StopInValidation(6), [6, 9, 12]),
        (True, 3, {}, StopInValidation(12), [12]),
        (True, 2, {}, StopAt(10), [12]),
        (True, 1, dict(by_epoch=False, interval=3), StopInValidation(6), [6, 9, 12]),
        (True, 1, dict(by_epoch=False, interval=4), StopAt(9), [9, 12]),
        (False, 5, {}, StopInValidation(10), [10, 13]),
        (False, 5, {}, StopInValidation(13), [13]),
        (False, 5, dict(interval=4), StopAt(10), [10, 13]),
        # This run was stopped after its end, so no validation is missing.
        (False, 5, dict(save_best='loss', rule='greater'), Hook(), []),
    ],
)
def test_missing_validations_are_run_after_resuming(
    tmp_path, by_epoch, val_interval, checkpoint, stop, resumed
):
    args = dict(
        by_epoch=by_epoch, val_interval=val_interval, seed=7, checkpoint=checkpoint
    )
    whole, before, after = Scores(), Scores(), Scores()
    train(tmp_path / 'whole', hooks=[whole], **args)
    train(tmp_path / 'parts', hooks=[before, stop], **args)
    train(tmp_path / 'parts', hooks=[after], resume=True, **args)
    assert [iteration for iteration, _ in after.seen] == resumed
    assert after.seen == whole.seen[len(whole.seen) - len(resumed) :]
    assert {**dict(before.seen), **dict(after.seen)} == dict(whole.seen)
    assert len(whole.seen) == len(dict(whole.seen))


def test_switching_the_data_pipeline_can_be_resumed(tmp_path):
    """mmpretrain's hook changes the pipeline of the wrapped dataset."""

    def recipe():
        return dict(
            type='mmpretrain.SwitchRecipeHook',
            schedule=[
                dict(
                    action_epoch=3,
                    train_pipeline=[lambda sample: dict(inputs=sample['inputs'] * 0)],
                )
            ],
        )

    whole = train(tmp_path / 'whole', seed=7, hooks=[recipe()])
    losses = whole.message_hub.get_scalar('train/loss').data[0]
    plain = train(tmp_path / 'plain', seed=7)
    other = plain.message_hub.get_scalar('train/loss').data[0]
    np.testing.assert_array_equal(losses[:6], other[:6])
    assert (losses[6:] != other[6:]).all()
    for num_workers in (0, 2):
        parts = tmp_path / f'parts{num_workers}'
        train(parts, seed=7, stop_at=8, hooks=[recipe()])
        assert_same(
            whole, train(parts, resume=True, num_workers=num_workers, hooks=[recipe()])
        )


def test_custom_loops_resume_by_advancing_the_data(tmp_path):

    class OwnLoop(IterBasedTrainLoop):
        pass

    loop = dict(type=OwnLoop, max_iters=13)
    whole = train(tmp_path / 'whole', by_epoch=False, seed=7, loop=loop)
    train(tmp_path / 'parts', by_epoch=False, seed=7, stop_at=7, loop=loop)
    resumed = train(tmp_path / 'parts', by_epoch=False, resume=True, loop=loop)
    assert_same(whole, resumed)


def test_keeping_the_seed_of_the_checkpoint_is_logged(tmp_path):
    train(tmp_path, seed=7, stop_at=7)
    runner = train(tmp_path, seed=8, stop_at=8, resume=True)
    assert runner.seed == 7
    with open(os.path.join(runner.log_dir, f'{runner.timestamp}.log')) as log:
        assert 'has seed 7: it is kept, and the configured 8' in log.read()


def test_auto_scale_lr_finds_the_batch_size(tmp_path):
    """The runner rewrites the config in which mmengine finds the batch size."""
    runner = train(tmp_path, stop_at=1)
    runner.param_schedulers = None
    before = runner.optim_wrapper.param_groups[0]['lr']
    runner.scale_lr(runner.optim_wrapper, dict(enable=True, base_batch_size=8))
    after = runner.optim_wrapper.param_groups[0]['lr']
    assert after == before / 2


def test_latest_checkpoint_is_found_without_a_valid_pointer(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    for k in (2, 10):
        path = tmp_path / f'iter_{k}.pth'
        path.touch()
        os.utime(path, (k, k))
    newest = str(tmp_path / 'iter_10.pth')
    assert latest_checkpoint(str(tmp_path)) == newest
    pointer = tmp_path / 'last_checkpoint'
    for named, found in [
        ('', newest),
        (str(tmp_path / 'iter_12.pth'), newest),
        ('/moved/from/iter_2.pth', str(tmp_path / 'iter_2.pth')),
    ]:
        pointer.write_text(named)
        assert latest_checkpoint(str(tmp_path)) == found


def test_checkpoints_that_cannot_be_resumed_are_refused(tmp_path):
    path = str(tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='does not exist'):
        read_resume_point(path)
    torch.save(dict(state_dict={}), path)
    with pytest.raises(CheckpointError, match='load_from'):
        read_resume_point(path)
    with open(path, 'rb+') as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match='cannot be read'):
        read_resume_point(path)


def test_checkpoints_of_another_model_are_refused(tmp_path):
    train(tmp_path, stop_at=7)
    with pytest.raises(CheckpointError, match='of 8 tensors matched'):
        train(tmp_path, resume=True, width=16)
    with pytest.raises(CheckpointError, match='another architecture'):
        torch.save(
            dict(state_dict=nn.Linear(1, 1).state_dict()), tmp_path / 'other.pth'
        )
        train(tmp_path / 'b', load_from=str(tmp_path / 'other.pth'))


@pytest.mark.parametrize('name', ['first', 'first/last_checkpoint'])
@pytest.mark.parametrize('resume', [False, True])
def test_work_dir_is_a_checkpoint_to_start_from(tmp_path, name, resume):
    train(tmp_path / 'first', stop_at=7, seed=1)
    path = latest_checkpoint(str(tmp_path / 'first'))
    runs = [
        train(tmp_path / str(k), seed=1, stop_at=9, load_from=given, resume=resume)
        for k, given in enumerate((path, str(tmp_path / name)))
    ]
    assert runs[0].iter == runs[1].iter
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)
