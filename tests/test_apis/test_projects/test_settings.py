"""Settings follow from the machine, the data and the budget."""

import pytest

from mmmaskdistill.apis.projects.settings import (
    Machine,
    choose_length,
    choose_settings,
    validation_steps,
)

CPU = Machine('', 0.0, 4)
GPU = Machine('H100', 79.0, 16)
SMALL_GPU = Machine('RTX', 23.5, 8)


def settings(machine=CPU, images=1000, labeled=100, short_side=480, photographs=True):
    return choose_settings(machine, images, labeled, short_side, photographs)


def test_without_a_gpu_the_quickstart_is_followed():
    chosen = settings()
    assert chosen.small and chosen.crop == chosen.window == 128
    assert (chosen.batch, chosen.lr) == (32, 2e-3)
    assert (chosen.seg_batch, chosen.seg_lr) == (8, 8e-3)
    assert (chosen.cls_batch, chosen.cls_lr) == (17, 2e-3)
    assert chosen.workers == 1
    assert settings(Machine('', 0.0, 1)).workers == 0


def test_with_a_gpu_the_batch_is_what_fits():
    large, small = settings(GPU), settings(SMALL_GPU)
    assert not large.small and large.crop == 224
    assert (large.batch, large.seg_batch) == (256, 16)
    assert (small.batch, small.seg_batch) == (128, 8)
    # 1.5e-3 * sqrt(256 / 2048) and 1e-4 * sqrt(8 / 16)
    assert large.lr == 5.3e-4 and small.seg_lr == 7.1e-5


def test_a_batch_is_not_larger_than_the_data():
    chosen = settings(images=5, labeled=3)
    assert (chosen.batch, chosen.seg_batch, chosen.cls_batch) == (5, 3, 3)
    assert chosen.lr == 7.9e-4  # 2e-3 * sqrt(5 / 32)
    assert settings(labeled=1).seg_batch == 2  # Batch norm needs two images.


@pytest.mark.parametrize(
    'machine, short_side, window', [(GPU, 375, 352), (GPU, 3000, 512), (CPU, 40, 64)]
)
def test_windows_fit_into_the_images(machine, short_side, window):
    chosen = settings(machine, short_side=short_side, photographs=False)
    assert chosen.window == window and chosen.zoom == 1


def test_only_photographs_are_made_smaller():
    assert settings(short_side=3000, photographs=True).zoom == 0.25
    assert settings(short_side=1023, photographs=True).zoom == 1
    assert settings(short_side=3000, photographs=False).zoom == 1


def test_a_budget_becomes_epochs():
    length = choose_length(1000, 32, True, None, seconds=640, per_step=2.0)
    assert (length.epochs, length.steps, length.interval) == (10, 320, 2)
    assert length.note.startswith('320 steps of 32 images')
    assert 'about 11 min (2 s a step, measured here' in length.note


def test_a_budget_becomes_steps():
    length = choose_length(1000, 8, False, None, seconds=100, per_step=0.5)
    assert (length.steps, length.interval) == (200, 40)


def test_limits_of_a_budget():
    most = choose_length(8, 8, True, None, seconds=1e6, per_step=0.1)
    assert most.epochs == 1600 and most.note.endswith('more would be of little use')
    too_long = choose_length(10000, 8, True, None, seconds=60, per_step=1.0)
    assert too_long.epochs == 1
    assert too_long.note.endswith('Less than this does not fit in 60 s')
    short = choose_length(1000, 8, False, None, seconds=20, per_step=1.0)
    assert short.note.endswith('So short a training learns little: give more --minutes')


def test_validations_are_part_of_the_budget():
    # Each window takes a third of a step, divided by the images of a batch.
    sizes = [(128, 128), (213, 128)]  # 1 and 2 windows of 128 pixels
    steps = validation_steps(160, 2, sizes, settings()._replace(window=128))
    assert steps == 160 * 1.5 / 2 / 3
    length = choose_length(1000, 8, False, None, 1000.0, 1.0, validation=steps)
    # Five validations, of 40 steps each, take a fifth of the budget.
    assert (length.steps, length.interval) == (800, 200)
    assert 'about 16 min' in length.note
    # Few steps are not followed by many validations.
    length = choose_length(1000, 8, False, None, 100.0, 1.0, validation=80.0)
    assert (length.steps, length.interval) == (50, 50)


def test_epochs_need_no_measurement():
    assert choose_length(100, 8, True, 3).steps == 39
    # A warm-up and a decay need one step each.
    assert choose_length(4, 8, False, 1).steps == 2
