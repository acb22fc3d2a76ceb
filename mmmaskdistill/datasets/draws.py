"""Random numbers that depend on the sample and not on the process that draws them.

The augmentation and the mask of a training sample are determined by the run's
seed and by the sample's place in the run, which is the epoch and the position in
this epoch over all ranks. They do not depend on the number of workers, on
prefetching or on the number of processes that share a batch. A resumed run has no
state of random generators to restore.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.structures import BaseDataElement
from torch.utils.data import BatchSampler, Dataset, Sampler

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATA_SAMPLERS, DATASETS


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch (CPU) with a key.

    Args:
        *key (int): Non-negative numbers. Each sequence of numbers has a random
            stream of its own.
    """
    words = np.random.SeedSequence(key).generate_state(3, np.uint32).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    # `torch.manual_seed` would seed all accelerators as well. A worker does not
    # need that, and it takes longer than a small augmentation.
    torch.default_generator.manual_seed(words[2])


class Place(NamedTuple):
    """What the batch of a training sample has in common, on all ranks.

    Attributes:
        progress (float | None): Share of the run's iterations that lie behind, at
            least 0 and less than 1. None if the training loop does not tell how
            long the run is.
        uniform (float): A random number, at least 0 and less than 1, that is drawn
            for each batch.
    """

    progress: float | None
    uniform: float


_place: Place | None = None


def current_place() -> Place | None:
    """Return the place in the run of the sample that is being loaded.

    Transforms call this function, in the main process or in a worker.

    Returns:
        Place | None: The place, or None if the sample is not loaded for training.
    """
    return _place


@contextmanager
def at_place(place: Place) -> Iterator[None]:
    """Set what :func:`current_place` returns within the ``with`` block.

    Args:
        place (Place): The place.
    """
    global _place
    _place = place
    try:
        yield
    finally:
        _place = None


class Draw(int):
    """An index of a dataset that knows at which place in the run it was drawn.

    Args:
        index (int): Index of the sample in the dataset.
        epoch (int): Number of the pass over the data.
        position (int): Position in this pass, counted over all ranks.
        batch (int): Number of the batch, counted from the beginning of the run.
            Defaults to 0.
        progress (float, optional): Share of the run's batches that lie behind.
            Defaults to None: the length of the run is not known.
    """

    def __new__(
        cls,
        index: int,
        epoch: int,
        position: int,
        batch: int = 0,
        progress: float | None = None,
    ) -> 'Draw':
        """Make an integer that has the other arguments as attributes."""
        draw = super().__new__(cls, index)
        draw.epoch, draw.position = epoch, position
        draw.batch, draw.progress = batch, progress
        return draw

    def __getnewargs__(self):
        return int(self), self.epoch, self.position, self.batch, self.progress


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A dataset that seeds its random transforms for each :class:`Draw`.

    While a sample is loaded, :func:`current_place` returns its place in the run.
    The data sample has the ``progress`` of the run as a meta field, for models with
    settings that change during the run.

    All other attributes (``metainfo``, ``full_init``, ``pipeline``, ...) are
    those of the wrapped dataset, whether they are read or written.

    Args:
        dataset (dict | Dataset): The dataset to wrap, or its config.
        seed (int): The run's seed.
    """

    def __init__(self, dataset: dict | Dataset, seed: int):
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, Draw):
            # The number after the seed keeps the random streams apart: 0 is for
            # samples, 1 for the model, see `IterationSeedHook`, and 2 for batches.
            uniform = np.random.default_rng((self.seed, 2, index.batch)).random()
            seed_generators(self.seed, 0, index.epoch, index.position)
            with at_place(Place(index.progress, uniform)):
                sample = self.dataset[int(index)]
            _note_progress(sample, index.progress)
            return sample
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Special methods of the wrapped dataset, such as `__getitems__`, which
        # torch calls if there is one, would bypass the seeding. `dataset` is
        # looked up during unpickling before it is set, and would be looked up
        # here again without end.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ('dataset', 'seed'):
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


def _note_progress(sample: Any, progress: float | None):
    data_sample = sample.get('data_samples') if isinstance(sample, dict) else None
    if progress is not None and isinstance(data_sample, BaseDataElement):
        data_sample.set_metainfo(dict(progress=progress))


@DATA_SAMPLERS.register_module()
class DrawBatchSampler(Sampler):
    """Batches of :class:`Draw`, starting at the batch at which a run resumes.

    A sampler with an ``epoch`` yields one pass over the data at a time. A sampler
    without one (``InfiniteSampler``) yields a single endless pass.

    Args:
        sampler (Sampler): Sampler of this rank's indices.
        batch_size (int): Number of indices in a batch.
        drop_last (bool): Whether to leave out the last batch of a pass if it is
            not full. Defaults to False.
        batch_sampler (dict, optional): Config of the batch sampler that makes
            the batches. Defaults to None, torch's ``BatchSampler``.
        endless (bool): Whether an iteration goes through one pass after another,
            as training loops that count iterations need it. Otherwise it goes
            through a single pass, whose number is the sampler's ``epoch``.
            Defaults to False.
        start (int): Number of batches, since the beginning of the run, on which
            the model has been trained already. Their indices are skipped, and
            their samples are not loaded. If ``endless`` is False, the last one
            of them belongs to the sampler's epoch, and may be the last batch of
            it. Defaults to 0.
        max_iters (int, optional): Number of batches of the run. Defaults to None.
        max_epochs (int, optional): Number of passes over the data of the run, if
            ``max_iters`` is not given. Defaults to None: without both, the draws
            have no ``progress``.

    Raises:
        ConfigError: While iterating, if the iteration is endless and a pass over
            the data has no batch.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        batch_sampler: dict | None = None,
        endless: bool = False,
        start: int = 0,
        max_iters: int | None = None,
        max_epochs: int | None = None,
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
        self.max_iters, self.max_epochs = max_iters, max_epochs
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, skip = 0, self.start
        # Samplers of mmengine and torch have no base class that says whether they
        # have an epoch, such as DefaultSampler, or a method to set it.
        if hasattr(self.sampler, 'epoch'):
            size = max(len(self.batches), 1)
            if self.endless:
                epoch, skip = divmod(self.start, size)
            else:
                epoch = self.sampler.epoch
                skip = (self.start - 1) % size + 1 if self.start else 0
        self.start = 0
        number = epoch * len(self.batches) if epoch else 0
        total = self.max_iters
        if total is None and self.max_epochs is not None:
            total = self.max_epochs * len(self.batches)
        while True:
            if self.endless and hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            position = self.rank
            for batch in self.batches:
                if skip:
                    skip -= 1
                else:
                    progress = None if total is None else min(number / total, 1.0)
                    yield [
                        Draw(
                            index,
                            epoch,
                            position + k * self.world_size,
                            number,
                            progress,
                        )
                        for k, index in enumerate(batch)
                    ]
                number += 1
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
