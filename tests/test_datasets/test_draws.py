import pickle
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmpretrain.datasets import RepeatAugSampler
from torch.utils.data import DataLoader, Subset

import mmmaskdistill  # noqa: F401
from mmmaskdistill.datasets.draws import Draw, DrawBatchSampler, SeededDataset


class Noise:
    """Each sample is drawn from all three generators."""

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
    """(index, epoch, position) of each draw, a list for each batch."""
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
def test_ranks_share_the_draws_of_one_process(sampler_type, endless):
    kwargs = dict(size=12, endless=endless, batches=3)
    one = draws(sampler_type, batch_size=4, **kwargs)
    two = [draws(sampler_type, rank, 2, batch_size=2, **kwargs) for rank in (0, 1)]
    for whole, first, second in zip(one, *two):
        assert sorted(whole) == sorted(first + second)
    assert len({draw[1:] for batch in one for draw in batch}) == 12


@pytest.mark.parametrize('sampler_type', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('start', [1, 3, 4, 11])
def test_start_skips_what_was_trained_on(sampler_type, start):
    """10 samples in batches of 4: the third of a pass has 2, unless endless
    samplers never end a pass."""
    whole = draws(sampler_type, batches=16, batch_size=4, endless=True)
    rest = draws(
        sampler_type, batches=16 - start, batch_size=4, endless=True, start=start
    )
    assert rest == whole[start:]
    assert len({draw[1:] for batch in whole for draw in batch}) == sum(map(len, whole))


def test_start_within_an_epoch():
    """Iterations 7, 8 and 9 of epochs of 3 batches are those of epoch 2."""
    epoch = draws(DefaultSampler, batch_size=4, epoch=2)
    assert [draw[1] for batch in epoch for draw in batch] == [2] * 10
    for start, rest in [(0, epoch), (7, epoch[1:]), (8, epoch[2:]), (9, [])]:
        assert draws(DefaultSampler, batch_size=4, epoch=2, start=start) == rest


def test_a_configured_batch_sampler_is_numbered_too():
    cfg = dict(type='BatchSampler', drop_last=True)
    from mmengine.registry import DATA_SAMPLERS

    DATA_SAMPLERS.register_module(
        'BatchSampler', module=torch.utils.data.BatchSampler, force=True
    )
    batches = draws(DefaultSampler, batch_size=4, batch_sampler=cfg)
    assert list(map(len, batches)) == [4, 4]
    assert [draw[2] for batch in batches for draw in batch] == list(range(8))


def test_batches_that_never_fill():
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
    torch.rand(num_workers)  # the process's own randomness must not matter
    return torch.cat(list(loader))


def test_samples_depend_on_nothing_but_the_draw():
    here = samples(num_workers=0)
    assert torch.equal(here, samples(num_workers=2, batch_size=3))
    for column in (1, 2, 3):
        assert len(set(here[:, column].tolist())) == 10
        assert not set(here[:, column].tolist()) & set(
            samples(num_workers=0, epoch=1)[:, column].tolist()
        )


def test_transparency():
    dataset = SeededDataset(Noise(), seed=1)
    assert len(dataset) == 10
    assert dataset.metainfo == Noise.metainfo
    assert dataset.get_cat_ids(3) == [1]
    assert not hasattr(dataset, 'full_init')
    # torch would fetch whole batches through it, without seeding.
    assert hasattr(Subset(Noise(), [0]), '__getitems__')
    assert not hasattr(SeededDataset(Subset(Noise(), [0]), seed=1), '__getitems__')
    dataset.size = 12
    assert len(dataset) == 12 and 'size' not in vars(dataset)
    assert pickle.loads(pickle.dumps(dataset)).size == 12


def test_draw_is_an_index():
    draw = pickle.loads(pickle.dumps(Draw(3, epoch=1, position=7)))
    assert (draw, draw.epoch, draw.position) == (3, 1, 7)
    assert 'abcd'[draw] == 'd'
