import pickle
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.structures import BaseDataElement
from mmpretrain.datasets import RepeatAugSampler
from scipy.stats import kstest
from torch.utils.data import DataLoader, Subset

import mmmaskdistill  # noqa: F401
from mmmaskdistill.datasets.draws import (
    Draw,
    DrawBatchSampler,
    SeededDataset,
    current_place,
)


class Noise:
    """A dataset whose samples use Python's, NumPy's and torch's generator."""

    metainfo = dict(classes=('a', 'b'))

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        import random

        return np.array(
            [index, random.random(), np.random.rand(), float(torch.rand(()))]
        )

    def get_cat_ids(self, index):
        return [index % 2]


def draws(
    sampler_type,
    rank=0,
    world_size=1,
    batches=6,
    epoch=0,
    size=10,
    batch_size=2,
    **kwargs,
):
    """Draw batches as rank ``rank`` of ``world_size`` does.

    Returns:
        list[list[tuple]]: For each batch, the (index, epoch, position) of its
            draws.
    """
    world = patch.multiple(
        f'{sampler_type.__module__}', get_dist_info=lambda: (rank, world_size)
    )
    own = patch(
        'mmmaskdistill.datasets.draws.get_dist_info', lambda: (rank, world_size)
    )
    with world, own:
        sampler = sampler_type(Noise(size), shuffle=True, seed=1)
        if epoch:
            sampler.set_epoch(epoch)
        batch_sampler = DrawBatchSampler(sampler, batch_size, **kwargs)
    return [
        [(int(d), d.epoch, d.position) for d in batch]
        for _, batch in zip(range(batches), batch_sampler)
    ]


@pytest.mark.parametrize(
    'sampler_type', [DefaultSampler, InfiniteSampler, RepeatAugSampler]
)
@pytest.mark.parametrize('endless', [True, False])
def test_two_ranks_together_draw_what_one_process_draws(sampler_type, endless):
    kwargs = dict(size=12, endless=endless, batches=3)
    one = draws(sampler_type, batch_size=4, **kwargs)
    two = [draws(sampler_type, rank, 2, batch_size=2, **kwargs) for rank in (0, 1)]
    for whole, first, second in zip(one, *two):
        assert sorted(whole) == sorted(first + second)
    assert len({draw[1:] for batch in one for draw in batch}) == 12


@pytest.mark.parametrize('sampler_type', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('start', [1, 3, 4, 11])
def test_start_skips_the_batches_trained_on(sampler_type, start):
    """Batches after the start are the same as in a run from the beginning.

    There are 10 samples in batches of 4. The third batch of DefaultSampler has
    2 samples, because its pass ends there; a pass of InfiniteSampler never ends.
    """
    whole = draws(sampler_type, batches=16, batch_size=4, endless=True)
    rest = draws(
        sampler_type, batches=16 - start, batch_size=4, endless=True, start=start
    )
    assert rest == whole[start:]
    assert len({draw[1:] for batch in whole for draw in batch}) == sum(map(len, whole))


def test_start_skips_batches_within_an_epoch():
    """Epochs have 3 batches: counted from 0, batches 6 to 8 form epoch 2."""
    epoch = draws(DefaultSampler, batch_size=4, epoch=2)
    assert [draw[1] for batch in epoch for draw in batch] == [2] * 10
    for start, rest in [(0, epoch), (7, epoch[1:]), (8, epoch[2:]), (9, [])]:
        assert draws(DefaultSampler, batch_size=4, epoch=2, start=start) == rest


def test_draws_of_a_configured_batch_sampler_are_numbered():
    cfg = dict(type='BatchSampler', drop_last=True)
    from mmengine.registry import DATA_SAMPLERS

    DATA_SAMPLERS.register_module(
        'BatchSampler', module=torch.utils.data.BatchSampler, force=True
    )
    batches = draws(DefaultSampler, batch_size=4, batch_sampler=cfg)
    assert list(map(len, batches)) == [4, 4]
    assert [draw[2] for batch in batches for draw in batch] == list(range(8))


def test_endless_batches_that_never_fill_are_refused():
    with pytest.raises(ValueError, match='10 samples do not fill a batch'):
        draws(DefaultSampler, batch_size=16, drop_last=True, endless=True)


def samples(num_workers, batch_size=5, epoch=0):
    dataset = SeededDataset(Noise(), seed=1)
    sampler = DefaultSampler(dataset, seed=1)
    sampler.set_epoch(epoch)
    loader = DataLoader(
        dataset,
        batch_sampler=DrawBatchSampler(sampler, batch_size),
        num_workers=num_workers,
    )
    torch.rand(num_workers)  # changes the state of the process's own generator
    return torch.cat(list(loader))


def test_samples_depend_only_on_the_draw():
    here = samples(num_workers=0)
    assert torch.equal(here, samples(num_workers=2, batch_size=3))
    for column in (1, 2, 3):
        assert len(set(here[:, column].tolist())) == 10
        assert not set(here[:, column].tolist()) & set(
            samples(num_workers=0, epoch=1)[:, column].tolist()
        )


def test_seeded_dataset_has_the_attributes_of_the_wrapped_one():
    dataset = SeededDataset(Noise(), seed=1)
    assert len(dataset) == 10
    assert dataset.metainfo == Noise.metainfo
    assert dataset.get_cat_ids(3) == [1]
    assert not hasattr(dataset, 'full_init')
    # DataLoader would fetch whole batches with `__getitems__`, without seeding.
    assert hasattr(Subset(Noise(), [0]), '__getitems__')
    assert not hasattr(SeededDataset(Subset(Noise(), [0]), seed=1), '__getitems__')
    dataset.size = 12
    assert len(dataset) == 12 and 'size' not in vars(dataset)
    assert pickle.loads(pickle.dumps(dataset)).size == 12


def test_draw_is_a_picklable_index():
    draw = Draw(3, epoch=1, position=7, batch=9, progress=0.5)
    draw = pickle.loads(pickle.dumps(draw))
    assert (draw, draw.epoch, draw.position) == (3, 1, 7)
    assert (draw.batch, draw.progress) == (9, 0.5)
    assert 'abcd'[draw] == 'd'


def progress(sampler_type, **kwargs):
    """Draw the number and the progress of each batch, as :func:`draws` does."""
    sampler = sampler_type(Noise(10), shuffle=True, seed=1)
    sampler.epoch = kwargs.pop('epoch', 0)
    if sampler_type is InfiniteSampler:
        del sampler.epoch
    batches = DrawBatchSampler(sampler, 4, **kwargs)
    found = []
    for _, batch in zip(range(6), batches):
        (places,) = {(draw.batch, draw.progress) for draw in batch}
        found.append(places)
    return found


def test_progress_is_the_share_of_the_batches_that_lie_behind():
    """A pass over the data has 3 batches."""
    endless = progress(InfiniteSampler, endless=True, max_iters=8)
    assert endless == [(i, i / 8) for i in range(6)]
    by_epoch = progress(DefaultSampler, epoch=1, max_epochs=4)
    assert by_epoch == [(i, i / 12) for i in (3, 4, 5)]
    passes = progress(DefaultSampler, endless=True, max_iters=8)
    assert passes == endless
    assert progress(DefaultSampler)[1] == (1, None)


@pytest.mark.parametrize('start', [1, 2, 4])
def test_progress_of_a_resumed_run_is_that_of_an_uninterrupted_one(start):
    for kind, length in (
        (InfiniteSampler, dict(endless=True, max_iters=8)),
        (DefaultSampler, dict(endless=True, max_iters=8)),
    ):
        resumed = progress(kind, start=start, **length)
        assert resumed[: 6 - start] == progress(kind, **length)[start:]
    resumed = progress(DefaultSampler, epoch=1, max_epochs=4, start=4)
    assert resumed == [(4, 4 / 12), (5, 5 / 12)]


class Places(Noise):
    """A dataset whose samples are the places at which they are loaded."""

    def __getitem__(self, index):
        return dict(inputs=current_place(), data_samples=BaseDataElement())


def test_transforms_and_models_learn_the_place_of_their_batch():
    dataset = SeededDataset(Places(), seed=1)
    first, same, other = (
        dataset[Draw(index, 0, index, batch, 0.25 * batch)]
        for index, batch in ((0, 1), (1, 1), (2, 2))
    )
    assert first['inputs'] == same['inputs']
    assert first['inputs'].progress == 0.25 and other['inputs'].progress == 0.5
    assert first['inputs'].uniform != other['inputs'].uniform
    assert [s['data_samples'].progress for s in (first, other)] == [0.25, 0.5]
    assert 'progress' in first['data_samples'].metainfo_keys()
    assert current_place() is None and dataset[3]['inputs'] is None
    drawn = [dataset[Draw(0, 0, 0, batch)]['inputs'].uniform for batch in range(400)]
    assert kstest(drawn, 'uniform').pvalue > 1e-3
