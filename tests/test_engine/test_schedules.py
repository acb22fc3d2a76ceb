import math
from pathlib import Path

import numpy as np
import pytest
from helpers.rates import log_of, make_runner, rates
from mmengine.config import Config
from mmengine.hub import get_config

from mmmaskdistill.engine.schedules import RunLength, fit_schedules
from mmmaskdistill.errors import ConfigError

WARMUP = dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, by_epoch=False)
POLY = dict(type='PolyLR', power=1.0, eta_min=0.0, begin=20, by_epoch=False)
CONFIGS = Path(__file__).parents[2] / 'configs/_base_/schedules'
SCHEDULE_80K = get_config('mmseg::_base_/schedules/schedule_80k.py')
ADE20K = Config.fromfile(CONFIGS / 'ade20k_160k.py').param_scheduler
FINETUNING = Config.fromfile(CONFIGS / 'finetune_100e.py')


def iterations(count):
    return RunLength(epochs=1, iters=count, epoch_length=10, by_epoch=False)


def epochs(count, length=10):
    return RunLength(count, count * length, length, by_epoch=True)


def test_schedules_of_the_right_length_stay_as_they_are():
    for schedule, run in [
        ([WARMUP, dict(POLY, end=200)], iterations(200)),
        ([WARMUP, POLY], iterations(200)),
        ([WARMUP], iterations(200)),
        (SCHEDULE_80K.param_scheduler, iterations(80000)),
        (ADE20K, iterations(160000)),
        (FINETUNING.param_scheduler, epochs(100)),
        ([dict(type='CosineAnnealingLR', T_max=100)], epochs(100)),
        ([dict(type='MultiStepLR', milestones=[30, 60])], epochs(100)),
        ([dict(WARMUP, end=1500), dict(type='ExponentialLR', gamma=0.9)], epochs(500)),
    ]:
        fitted, notes = fit_schedules(schedule, run)
        assert not notes
        assert all(new is old for new, old in zip(fitted, schedule, strict=True))


@pytest.mark.parametrize('count', [2, 3, 4, 10, 20, 50])
def test_learning_rates_follow_the_length_of_a_run(count, tmp_path):
    """The decay of mmseg's base schedule reaches its end in any run."""
    runner, seen = rates(
        tmp_path,
        dict(type='IterBasedTrainLoop', max_iters=count),
        SCHEDULE_80K.param_scheduler,
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000),
    )
    expected = [
        1e-4 + (0.1 - 1e-4) * (1 - k / (count - 1)) ** 0.9 for k in range(count)
    ]
    np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-9)
    assert (
        f'param_scheduler is written for 80,000 iterations, and this run has {count}: '
        f'its lengths are multiplied by {count / 80000:.4g}, which gives '
        f'param_scheduler.0.end={count}\n'
    ) in log_of(runner)


@pytest.mark.parametrize('count', [320, 40, 4])
def test_segmentation_recipe_keeps_its_shape(count, tmp_path):
    """Iteration k of n has the recipe's learning rate at iteration 160000 k / n."""
    _, seen = rates(
        tmp_path,
        dict(type='IterBasedTrainLoop', max_iters=count),
        ADE20K,
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000),
    )
    k = np.arange(count)
    expected = 0.1 * (1 - k / count)
    warmup = round(1500 * count / 160000)
    if warmup > 0:
        expected[:warmup] *= 1 - (1 - k[:warmup] / warmup) * (1 - 1e-6)
    np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-9)


def test_warmup_in_epochs_follows_the_length_of_a_run(tmp_path):
    """Fine-tuning of 100 epochs, 20 of them warm-up, in 10 epochs of 3 iterations."""
    schedule = FINETUNING.param_scheduler
    _, seen = rates(tmp_path, dict(by_epoch=True, max_epochs=10), schedule)
    start, end = schedule[0].start_factor, schedule[1].eta_min_ratio
    expected = [0.1 * (start + (1 - start) * k / 5) for k in range(6)] + [
        0.1 * (end + (1 - end) * (1 + math.cos(math.pi * k / 24)) / 2)
        for k in range(24)
    ]
    np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-9)


@pytest.mark.parametrize(
    'schedule, run, expected',
    [
        # Only the warm-up says how long it is.
        ([WARMUP, POLY], iterations(20), [dict(end=2), dict(begin=2)]),
        ([WARMUP, POLY], iterations(4), [dict(begin=0)]),
        ([dict(WARMUP, end=1500)], iterations(50), [dict(end=5)]),
        (
            [dict(WARMUP, end=1500), dict(POLY, begin=0, end=50)],
            iterations(50),
            [dict(end=5), dict(begin=0, end=50)],
        ),
        # mmpretrain's schedules mix the units.
        (
            [dict(WARMUP, end=5000), dict(type='PolyLR', end=300)],
            epochs(30, length=100),
            [dict(end=500), dict(end=30)],
        ),
        (
            [
                dict(type='LinearLR', end=5, convert_to_iter_based=True),
                dict(type='CosineAnnealingLR', T_max=95, begin=5, end=100),
            ],
            epochs(30),
            [dict(end=1.5), dict(begin=2, end=30, T_max=28)],
        ),
        (
            [dict(type='CosineRestartLR', periods=[40, 60], eta_min=0)],
            epochs(10),
            [dict(periods=[4, 6])],
        ),
        (
            [
                dict(WARMUP, end=1000),
                dict(
                    type='MultiStepLR',
                    begin=1000,
                    end=80000,
                    milestones=[60000, 72000],
                    by_epoch=False,
                ),
            ],
            iterations(800),
            [dict(end=10), dict(begin=10, end=800, milestones=[600, 720])],
        ),
        # mmseg's schedule for depth estimation ends with a constant.
        (
            [
                dict(WARMUP, end=12000),
                dict(POLY, begin=12000, end=24000),
                dict(
                    type='ConstantLR', factor=1, by_epoch=False, begin=24000, end=25000
                ),
            ],
            iterations(50),
            [dict(end=24), dict(begin=24, end=48), dict(begin=48, end=50)],
        ),
        # Longer runs.
        (
            [dict(WARMUP), dict(POLY, end=200)],
            iterations(400),
            [dict(end=40), dict(begin=40, end=400)],
        ),
    ],
)
def test_lengths_are_scaled(schedule, run, expected):
    fitted, notes = fit_schedules(schedule, run)
    assert notes
    assert len(fitted) == len(expected)
    for part, lengths in zip(fitted, expected):
        assert {key: part.get(key, 0) for key in lengths} == lengths


def test_warmup_of_one_step_is_left_out(tmp_path):
    """mmengine's schedule would stay at the first value of the warm-up."""
    schedule = [
        dict(type='LinearLR', start_factor=1e-3, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True),
    ]
    runner, seen = rates(
        tmp_path, dict(by_epoch=True, max_epochs=4), schedule, samples=2
    )
    expected = [0.1] + [0.1 * (1 + math.cos(math.pi * k / 3)) / 2 for k in range(3)]
    np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-9)
    assert (
        'param_scheduler.0 (LinearLR) has less than two steps in this run, so it is '
        'left out'
    ) in log_of(runner)


@pytest.mark.parametrize(
    'schedule, run, note',
    [
        (
            [dict(type='MultiStepLR', milestones=[30, 60, 90])],
            epochs(10),
            'param_scheduler.0 (MultiStepLR) never reaches its milestones [30,60,90] '
            'in this run of 10 epochs: set param_scheduler.0.milestones=[3,6,9]',
        ),
        (
            [dict(type='StepLR', step_size=30)],
            epochs(9),
            'param_scheduler.0 (StepLR) never takes its first step of 30 in this run '
            'of 9 epochs: set param_scheduler.0.step_size=3',
        ),
        (
            [WARMUP, POLY],
            iterations(25),
            'param_scheduler.0 (LinearLR) warms up for 80% of this run of 25 '
            'iterations: set param_scheduler.0.end to less',
        ),
    ],
)
def test_what_cannot_be_scaled_is_said(schedule, run, note):
    fitted, notes = fit_schedules(schedule, run)
    assert notes == [note]
    assert fitted == schedule


@pytest.mark.parametrize(
    'schedule, run, message',
    [
        (
            [dict(type='PolyLR', end=100)],
            iterations(20),
            'param_scheduler.0 (PolyLR) counts epochs and the training loop counts '
            'iterations, so it would stay at its first value: set '
            'param_scheduler.0.by_epoch=False and give its begin and end in '
            'iterations, of which the run has 20',
        ),
        (
            [WARMUP, dict(POLY, end=20)],
            iterations(20),
            'param_scheduler.1 (PolyLR) begins at 20 and ends at 20 iterations: set '
            'param_scheduler.1.end to more than its begin',
        ),
    ],
)
def test_wrong_schedules_are_refused(schedule, run, message):
    with pytest.raises(ConfigError) as error:
        fit_schedules(schedule, run)
    assert str(error.value) == message


@pytest.mark.parametrize(
    'loop, message',
    [
        (
            dict(type='EpochBasedTrainLoop', max_epochs=2, max_iters=200),
            'train_cfg has max_iters=200, which EpochBasedTrainLoop does not take, '
            'perhaps from a base config: write train_cfg=dict(_delete_=True, '
            "type='EpochBasedTrainLoop', max_epochs=...)",
        ),
        (
            dict(type='IterBasedTrainLoop', max_epochs=2),
            'train_cfg has max_epochs=2, which IterBasedTrainLoop does not take, '
            'perhaps from a base config: write train_cfg=dict(_delete_=True, '
            "type='IterBasedTrainLoop', max_iters=...)",
        ),
        (
            dict(type='IterBasedTrainLoop'),
            'train_cfg has no max_iters, which IterBasedTrainLoop needs: add '
            '--cfg-options train_cfg.max_iters=N',
        ),
    ],
)
def test_lengths_of_the_other_loop_are_refused(tmp_path, loop, message):
    with pytest.raises(ConfigError) as error:
        make_runner(tmp_path, loop).train()
    assert str(error.value) == message


def test_parts_in_epochs_fall_on_iterations_of_a_short_run():
    """Half an epoch of 5 iterations would be a milestone that is never met."""
    milestones = dict(
        type='MultiStepLR', milestones=[30, 60], end=100, convert_to_iter_based=True
    )
    cycle = dict(type='OneCycleLR', total_steps=100, convert_to_iter_based=True)
    run = epochs(7, length=5)
    (fitted,), _ = fit_schedules([milestones], run)
    assert fitted == dict(
        type='MultiStepLR', milestones=[10, 21], end=35, by_epoch=False
    )
    (fitted,), _ = fit_schedules([cycle], run)
    assert fitted == dict(type='OneCycleLR', total_steps=35, by_epoch=False)
    assert milestones['milestones'] == [30, 60]


def test_plateaus_are_those_of_validations_in_every_loop():
    plateau = dict(type='ReduceOnPlateauLR', monitor='mIoU')
    assert fit_schedules([plateau], iterations(8)) == ([plateau], [])
    with pytest.raises(ConfigError, match='0.by_epoch=True in every loop'):
        fit_schedules([dict(plateau, by_epoch=False)], iterations(8))


def test_milestones_that_are_proposed_are_possible():
    late = dict(type='MultiStepLR', milestones=[30, 60, 90])
    _, (note,) = fit_schedules([late], epochs(2))
    assert note.endswith('set param_scheduler.0.milestones=[1]')
