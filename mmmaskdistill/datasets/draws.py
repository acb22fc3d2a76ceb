"""Randomness keyed by what is drawn, not by who draws it.

A training sample's augmentation and mask follow from the run's seed and the
sample's place in the run (pass over the data, position in that pass over all
ranks). So they depend neither on the number of workers, nor on prefetching,
nor on how many processes share a batch, and a resumed run has no generator
state to restore.
"""

import random
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, Dataset, Sampler

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATA_SAMPLERS, DATASETS


def seed_generators(*key: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generator from a key.

    Args:
        *key (int): Non-negative numbers; each sequence of numbers has its own
            random stream.
    """
    words = np.random.SeedSequence(key).generate_state(3, np.uint32).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    # `torch.manual_seed` visits every accelerator as well, which costs more
    # than a small augmentation and is of no use in a worker.
    torch.default_generator.manual_seed(words[2])


class Draw(int):
    """A dataset's index that remembers when in the run it was drawn.

    Args:
        index (int): Index into the dataset.
        epoch (int): Pass over the data.
        position (int): Position in this pass, over all ranks.
    """

    def __new__(cls, index: int, epoch: int, position: int) -> 'Draw':
        draw = super().__new__(cls, index)
        draw.epoch, draw.position = epoch, position
        return draw

    def __getnewargs__(self):
        return int(self), self.epoch, self.position


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A dataset whose random transforms follow from the draw.

    Every other attribute (``metainfo``, ``full_init``, ``pipeline``, ...) is
    the wrapped dataset's, to read and to write.

    Args:
        dataset (dict or Dataset): The dataset.
        seed (int): The run's seed.
    """

    def __init__(self, dataset: dict | Dataset, seed: int):
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, Draw):
            seed_generators(self.seed, 0, index.epoch, index.position)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Special methods of the wrapped dataset, such as torch's
        # `__getitems__`, would go round the seeding; `dataset` itself is
        # asked for while unpickling.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ('dataset', 'seed'):
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


@DATA_SAMPLERS.register_module()
class DrawBatchSampler(Sampler):
    """Batches of :class:`Draw`, from the batch to resume at.

    A sampler that has an ``epoch`` gives one pass over the data at a time; one
    that has none (``InfiniteSampler``) is a single endless pass.

    Args:
        sampler (Sampler): Gives this rank's indices.
        batch_size (int): Number of indices in a batch.
        drop_last (bool): Whether to leave out a pass's last batch if it is
            not full.
        batch_sampler (dict, optional): Config of the batch sampler to number;
            torch's if None.
        endless (bool): Whether one iteration goes through pass after pass, as
            a loop that counts iterations wants it, or through one pass, whose
            number is the sampler's ``epoch``.
        start (int): Batches since the beginning of the run that were already
            trained on. They are skipped as indices: no sample is loaded.
            If not endless, the last of them belongs to the sampler's epoch,
            of which nothing may be left.
    """

    def __init__(
        self,
        sampler: Sized,
        batch_size: int,
        drop_last: bool = False,
        batch_sampler: dict | None = None,
        endless: bool = False,
        start: int = 0,
    ):
        if batch_sampler is None:
            batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            batches = DATA_SAMPLERS.build(
                batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        self.batches = batches
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.endless = endless
        self.start = start
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, skip = 0, self.start
        if hasattr(self.sampler, 'epoch'):
            size = max(len(self.batches), 1)
            if self.endless:
                epoch, skip = divmod(self.start, size)
            else:
                epoch = self.sampler.epoch
                skip = (self.start - 1) % size + 1 if self.start else 0
        self.start = 0
        while True:
            if self.endless and hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            position = self.rank
            for batch in self.batches:
                if skip:
                    skip -= 1
                else:
                    yield [
                        Draw(index, epoch, position + k * self.world_size)
                        for k, index in enumerate(batch)
                    ]
                position += len(batch) * self.world_size
            if not self.endless:
                return
            if position == self.rank:
                raise ConfigError(
                    f'{len(self.sampler)} samples do not fill a batch of '
                    f'{self.batch_size}: reduce batch_size or set '
                    'drop_last=False'
                )
            epoch += 1

    def __len__(self) -> int:
        return len(self.batches)
