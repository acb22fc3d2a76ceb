"""A resumed run has the learning rates that a new run of its config has."""

import pytest
from helpers.rates import log_of, make_runner, rates
from mmengine.hooks import Hook

from mmmaskdistill.errors import CheckpointError

ITERATIONS = [
    dict(type='LinearLR', start_factor=0.1, end=3, by_epoch=False),
    dict(type='PolyLR', begin=3, by_epoch=False),
]
EPOCHS = [
    dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1),
]


class StopAt(Hook):
    """Stop after the checkpoint of an iteration was saved."""

    priority = 'LOWEST'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


def loop(length, by_epoch=False):
    return (
        dict(by_epoch=True, max_epochs=length)
        if by_epoch
        else dict(type='IterBasedTrainLoop', max_iters=length)
    )


def resumed(tmp_path, before, after, stop_at=None):
    """Train twice in the same folder, and once from the start with the new config."""
    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            rates(tmp_path, **before, hooks=[StopAt(stop_at)])
    else:
        rates(tmp_path, **before)
    runner, seen = rates(tmp_path, **after, resume=True)
    _, fresh = rates(tmp_path / 'fresh', **after)
    return runner, seen, fresh


@pytest.mark.parametrize('longer', [8, 6])
def test_another_number_of_iterations(tmp_path, longer):
    runner, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(4), param_scheduler=ITERATIONS),
        dict(train_cfg=loop(longer), param_scheduler=ITERATIONS),
    )
    assert list(seen) == list(range(4, longer))
    assert seen == {k: fresh[k] for k in seen}
    assert all(rate > 0 for rate in list(seen.values())[:-1])
    assert (
        'resumed with other settings than the stopped run had (number of iterations '
        f'4 -> {longer}): from here, at iteration 4 of {longer}, the learning rate is'
        ' the one that a new run of this config has at this point '
        f'({fresh[4]:.4g})'
    ) in log_of(runner)


def test_a_shorter_run(tmp_path):
    _, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(12), param_scheduler=ITERATIONS),
        dict(train_cfg=loop(8), param_scheduler=ITERATIONS),
        stop_at=5,
    )
    assert list(seen) == [5, 6, 7]
    assert seen == {k: fresh[k] for k in seen}


@pytest.mark.parametrize('schedule', [ITERATIONS, None])
def test_another_learning_rate_and_weight_decay(tmp_path, schedule):
    runner, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(8), param_scheduler=schedule, lr=0.1),
        dict(train_cfg=loop(8), param_scheduler=schedule, lr=0.2, weight_decay=0.5),
        stop_at=5,
    )
    assert list(seen) == [5, 6, 7]
    assert seen == {k: fresh[k] for k in seen}
    log = log_of(runner)
    assert 'lr 0.1 -> 0.2' in log and 'weight_decay 0.0 -> 0.5' in log
    assert {g['weight_decay'] for g in runner.optim_wrapper.param_groups} == {0.5}


def test_another_schedule(tmp_path):
    _, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(8), param_scheduler=ITERATIONS[:1]),
        dict(
            train_cfg=loop(8),
            param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False)],
        ),
        stop_at=5,
    )
    assert seen == {k: fresh[k] for k in seen}


@pytest.mark.parametrize('stop_at', [6, 5])
def test_another_batch_size_of_a_run_that_counts_epochs(tmp_path, stop_at):
    """The run goes on at the same epoch, from its start if it was not finished."""
    checkpoint = dict(type='CheckpointHook', by_epoch=stop_at == 6, interval=1)
    runner, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(4, True), param_scheduler=EPOCHS, checkpoint=checkpoint),
        dict(
            train_cfg=loop(4, True),
            param_scheduler=EPOCHS,
            batch_size=1,
            checkpoint=checkpoint,
        ),
        stop_at=stop_at + (stop_at == 6),
    )
    first = 12 if stop_at == 6 else 6
    assert list(seen) == list(range(first, 24))
    assert seen == {k: fresh[k] for k in seen}
    log = log_of(runner)
    assert '(batch size 2 -> 1, batches per epoch 3 -> 6)' in log
    assert f'at epoch {first // 6} of 4' in log


def test_another_batch_size_of_a_run_that_counts_iterations(tmp_path):
    runner, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(8), param_scheduler=ITERATIONS),
        dict(train_cfg=loop(8), param_scheduler=ITERATIONS, batch_size=3),
        stop_at=5,
    )
    assert list(seen) == [5, 6, 7]
    assert seen == {k: fresh[k] for k in seen}
    assert '(batch size 2 -> 3): from here' in log_of(runner)


def test_an_unchanged_run_says_nothing(tmp_path):
    runner, seen, fresh = resumed(
        tmp_path,
        dict(train_cfg=loop(4, True), param_scheduler=EPOCHS),
        dict(train_cfg=loop(4, True), param_scheduler=EPOCHS),
        stop_at=7,
    )
    assert list(seen) == list(range(7, 12))
    assert seen == {k: fresh[k] for k in seen}
    assert 'other settings' not in log_of(runner)


def test_other_parameter_groups_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rates(tmp_path, loop(8), hooks=[StopAt(5)])
    runner = make_runner(tmp_path, loop(8), resume=True, paramwise_cfg=dict())
    with pytest.raises(CheckpointError, match='other parameter groups .*load_from'):
        runner.train()
