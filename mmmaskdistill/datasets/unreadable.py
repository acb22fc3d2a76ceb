"""Data sets that replace a few unreadable images instead of ending the training."""

import logging

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmmaskdistill.errors import ConfigError

from .image_files import UnreadableImage


class ReplacesUnreadable(BaseDataset):
    """Base class of data sets in which some images may be unreadable.

    In training, an image that ``StrictLoadImageFromFile`` or ``LoadImage`` cannot load
    is replaced by another one, which is drawn at random. Under :class:`SeededDataset`
    the sample's seed determines the draw. Each unreadable image is logged once, by the
    process of rank 0. Unreadable images are counted for each training process
    separately, over all of its workers.

    Args:
        *args: Arguments of the data set.
        max_unreadable (float): Largest share of the images that may be
            unreadable, 0 to 1. Defaults to 0.001.
        **kwargs: Arguments of the data set.

    Raises:
        ConfigError: If ``max_unreadable`` is not from 0 to 1, or, while loading, if too
            many images are unreadable.
    """

    def __init__(self, *args, max_unreadable: float = 1e-3, **kwargs):
        if not 0 <= max_unreadable <= 1:
            raise ConfigError(f'max_unreadable={max_unreadable}: expected 0 to 1')
        self.max_unreadable = max_unreadable
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Load the list of images, and prepare to count unreadable ones."""
        if not self._fully_initialized:
            super().full_init()
            # Workers are processes of their own. In shared memory, all of them
            # see the images that one of them has marked.
            self._unreadable = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    @property
    def num_unreadable(self) -> int:
        """Number of images that could not be loaded so far."""
        return int(self._unreadable.sum())

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on an image.

        Args:
            idx (int): Index of the image.

        Returns:
            dict | None: The result of the pipeline. None makes mmengine's dataset
            draw another image, because this one is unreadable.

        Raises:
            ConfigError: If more than ``max_unreadable`` of the images are
                unreadable.
            UnreadableImage: If the image is unreadable and the dataset is in
                test mode, where images must not be replaced.
        """
        try:
            return super().prepare_data(idx)
        except UnreadableImage as error:
            if self.test_mode:
                raise
            self._note_unreadable(idx, error)
            return None

    def _note_unreadable(self, idx: int, error: UnreadableImage):
        if not self._unreadable[idx]:
            self._unreadable[idx] = True
            print_log(
                f'{error}. It is replaced by another image.',
                logger='current',
                level=logging.WARNING,
            )
        count = self.num_unreadable
        if count > self.max_unreadable * len(self):
            raise ConfigError(
                f'{count} of {len(self)} images cannot be loaded, '
                f'max_unreadable={self.max_unreadable:g} allows fewer: repair the '
                'files, or raise max_unreadable of the dataset. The last error: '
                f'{error}'
            ) from error
