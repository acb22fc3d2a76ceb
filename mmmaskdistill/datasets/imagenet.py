"""ImageNet from folders, tar shards or an LMDB, with some files damaged."""

import logging

import torch
from mmengine.logging import print_log
from mmpretrain.datasets import ImageNet as MMPretrainImageNet

from mmmaskdistill.datasets.loading import UnreadableImage
from mmmaskdistill.datasets.storage import FOLDERS, read_index
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS


@DATASETS.register_module()
class ImageNet(MMPretrainImageNet):
    """mmpretrain's ``ImageNet``, packed or not, that outlives damaged files.

    The images of ``data_root/train`` are read from that folder, or, packed by
    ``tools/dataset_converters/pack_imagenet.py``, from the tar shards in
    ``data_root/train_shards`` or the LMDB ``data_root/train_lmdb``. They are
    the same samples in the same order.

    In training, an image that ``StrictLoadImageFromFile`` cannot load is
    replaced by another one, drawn at random, from the sample's seed under
    :class:`SeededDataset`. The first process logs its name once. All workers
    of a process count together, several processes each for themselves.

    Args:
        storage (str): ``folder``, ``shards`` or ``lmdb``. Defaults to
            ``folder``.
        max_unreadable (float): Largest share of the images that may turn out
            to be unreadable. Defaults to 0.001.
        **kwargs: As for mmpretrain's ``ImageNet``.

    Raises:
        ConfigError: If there is no such storage, what was packed is missing,
            or more images are unreadable.
    """

    def __init__(
        self, *args, storage: str = 'folder', max_unreadable: float = 1e-3, **kwargs
    ):
        if storage not in ('folder', *FOLDERS):
            raise ConfigError(
                f"storage='{storage}': expected folder, {' or '.join(FOLDERS)}"
            )
        if storage != 'folder' and kwargs.get('ann_file'):
            raise ConfigError(
                f"ann_file='{kwargs['ann_file']}' has no effect with "
                f"storage='{storage}', whose index lists the images"
            )
        if not 0 <= max_unreadable <= 1:
            raise ConfigError(f'max_unreadable={max_unreadable}: expected 0 to 1')
        if storage == 'lmdb':
            try:
                import lmdb  # noqa: F401
            except ImportError:
                raise ConfigError("storage='lmdb' needs: pip install lmdb") from None
        self.storage = storage
        self.max_unreadable = max_unreadable
        super().__init__(*args, **kwargs)

    def full_init(self):
        if not self._fully_initialized:
            super().full_init()
            # In shared memory: a worker's marks are seen by all.
            self._unreadable = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def load_data_list(self) -> list[dict]:
        if self.storage == 'folder':
            return super().load_data_list()
        return read_index(
            self.img_prefix.rstrip('/') + FOLDERS[self.storage], self.storage
        )

    @property
    def num_unreadable(self) -> int:
        """int: Images that could not be loaded so far."""
        return int(self._unreadable.sum())

    def prepare_data(self, idx: int) -> dict | None:
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
                f'{error}. Another image takes its place.',
                logger='current',
                level=logging.WARNING,
            )
        count = self.num_unreadable
        if count > self.max_unreadable * len(self):
            raise ConfigError(
                f'{count} of {len(self)} images cannot be loaded, '
                f'max_unreadable={self.max_unreadable:g} of them may: repair '
                'them or raise max_unreadable of the dataset. The last one: '
                f'{error}'
            ) from error
