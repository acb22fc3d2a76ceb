"""ImageNet from folders, tar shards or an LMDB, even if some files are damaged."""

from mmpretrain.datasets import ImageNet as MMPretrainImageNet

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS

from .storage import FOLDERS, read_index
from .unreadable import ReplacesUnreadable


@DATASETS.register_module()
class ImageNet(ReplacesUnreadable, MMPretrainImageNet):
    """mmpretrain's ``ImageNet`` for folders or packed images, some of them damaged.

    The images of ``data_root/train`` are read from that folder. If they have
    been packed by ``tools/dataset_converters/pack_imagenet.py``, they can also be
    read from the tar shards in ``data_root/train_shards`` or from the LMDB
    ``data_root/train_lmdb``. The samples and their order are the same.

    In training, a few unreadable images are replaced, see
    :class:`.unreadable.ReplacesUnreadable`.

    Args:
        *args: Arguments of mmpretrain's ``ImageNet``.
        storage (str): Where to read the images from: ``'folder'``, ``'shards'``
            or ``'lmdb'``. Defaults to ``'folder'``.
        **kwargs: Arguments of mmpretrain's ``ImageNet``, and ``max_unreadable``, the
            largest share of the images that may be unreadable.

    Raises:
        ConfigError: If an argument has none of these values, if ``ann_file`` is
            given for packed images, if the packed images or the package ``lmdb``
            are missing, if the folder does not have ImageNet's classes, or, while
            loading, if too many images are unreadable.
    """

    def __init__(self, *args, storage: str = 'folder', **kwargs):
        if storage not in ('folder', *FOLDERS):
            raise ConfigError(
                f"storage='{storage}': expected folder, {' or '.join(FOLDERS)}"
            )
        if storage != 'folder' and kwargs.get('ann_file'):
            raise ConfigError(
                f"ann_file='{kwargs['ann_file']}' has no effect with "
                f"storage='{storage}', whose index lists the images"
            )
        if storage == 'lmdb':
            try:
                import lmdb  # noqa: F401
            except ImportError:
                raise ConfigError("storage='lmdb' needs: pip install lmdb") from None
        self.storage = storage
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images of the folder, or those in the index of packed images.

        Returns:
            list[dict]: ``img_path`` and ``gt_label`` of each image.

        Raises:
            ConfigError: If the index of the packed images is missing, or the folder
                does not have ImageNet's classes.
        """
        if self.storage == 'folder':
            try:
                return super().load_data_list()
            except AssertionError as error:
                raise ConfigError(
                    f"'{self.img_prefix}' is not ImageNet: {error} For images without "
                    "labels, set type='mmmaskdistill.ImageFolder' and paths of the "
                    'data set; for folders of your own classes, '
                    "type='CustomDataset'"
                ) from error
        return read_index(
            self.img_prefix.rstrip('/') + FOLDERS[self.storage], self.storage
        )
