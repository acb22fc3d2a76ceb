"""ImageNet from folders, tar shards or an LMDB, even if some files are damaged."""

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
    """mmpretrain's ``ImageNet`` for folders or packed images, some of them damaged.

    The images of ``data_root/train`` are read from that folder. If they have
    been packed by ``tools/dataset_converters/pack_imagenet.py``, they can also be
    read from the tar shards in ``data_root/train_shards`` or from the LMDB
    ``data_root/train_lmdb``. The samples and their order are the same.

    In training, an image that ``StrictLoadImageFromFile`` cannot load is replaced
    by another one, which is drawn at random. Under :class:`SeededDataset` the
    sample's seed determines the draw. Each unreadable image is logged once, by
    the process of rank 0. Unreadable images are counted for each training process
    separately, over all of its workers.

    Args:
        *args: Arguments of mmpretrain's ``ImageNet``.
        storage (str): Where to read the images from: ``'folder'``, ``'shards'``
            or ``'lmdb'``. Defaults to ``'folder'``.
        max_unreadable (float): Largest share of the images that may be
            unreadable, 0 to 1. Defaults to 0.001.
        **kwargs: Arguments of mmpretrain's ``ImageNet``.

    Raises:
        ConfigError: If an argument has none of these values, if ``ann_file`` is
            given for packed images, if the packed images or the package ``lmdb``
            are missing, or, while loading, if too many images are unreadable.
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

    def full_init(self) -> None:
        """Load the list of images, and prepare to count unreadable ones."""
        if not self._fully_initialized:
            super().full_init()
            # Workers are processes of their own. In shared memory, all of them
            # see the images that one of them has marked.
            self._unreadable = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def load_data_list(self) -> list[dict]:
        """List the images of the folder, or those in the index of packed images.

        Returns:
            list[dict]: ``img_path`` and ``gt_label`` of each image.

        Raises:
            ConfigError: If the index of the packed images is missing.
        """
        if self.storage == 'folder':
            return super().load_data_list()
        return read_index(
            self.img_prefix.rstrip('/') + FOLDERS[self.storage], self.storage
        )

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
