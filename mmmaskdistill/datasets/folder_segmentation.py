"""A segmentation data set made of a folder of images, one of labels, and a table."""

import hashlib
import logging
import os.path as osp
from collections.abc import Callable, Sequence

from mmcv.transforms import LoadAnnotations
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from mmseg.datasets import BaseSegDataset

from mmmaskdistill.errors import ConfigError, first_few
from mmmaskdistill.registry import DATASETS

from .classes import IGNORED, ClassTable
from .folders import (
    FoundImages,
    Pairs,
    find_images,
    find_images_and_labels,
    find_labels,
    name_below,
    pair_labels,
    read_list,
)
from .label_maps import LoadLabels

PARTS = ('train', 'val')
FIXED = dict(
    reduce_zero_label='set ignore in the line of value 0 of the class table',
    label_map='the class table maps the values',
    metainfo='the class table has the names and colors',
    img_suffix='all formats are found',
    seg_map_suffix='all formats are found; label_suffix chooses among several labels',
)


@DATASETS.register_module()
class FolderSegDataset(BaseSegDataset):
    """Images and labels from two folders of any layout, with a table of classes.

    An image and its label have the same path below the two folders, whatever the
    endings; :func:`.folders.pair_labels` also knows common suffixes such as
    ``a_mask.png``. The classes, their colors, and which values or colors of the labels
    mean which class or nothing, are in the table, see :class:`ClassTable`. Labels may
    therefore be index images, palette images, masks or colored pictures, of 8 or 16
    bits. In the pipeline, mmseg's ``LoadAnnotations`` is replaced with
    :class:`LoadLabels` for this table; so is a ``LoadLabels`` without ``classes``.
    Images and labels may also lie in the same folder, if the names of the labels, or
    of folders in it, say which files are labels.

    Example::

        dataset = dict(
            type='mmmaskdistill.FolderSegDataset',
            data_root='data/streets',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            classes='classes.csv',
            share=0.1,
            part='train',
            pipeline=train_pipeline,
        )

    Args:
        classes (str | ClassTable): The CSV file of the table, relative to ``data_root``
            or else to the working folder.
        data_root (str, optional): Folder to which the other paths are relative.
            Defaults to None, the working folder.
        data_prefix (dict): ``img_path`` and ``seg_map_path``, the two folders. Without
            ``seg_map_path`` there are only images, for predictions.
        ann_file (str): Text file that chooses images. Each line is the path of an
            image below ``img_path``, with or without its ending. Defaults to ``''``,
            all images.
        share (float, optional): Share of the images that are for validation, 0 to 1.
            Which ones these are follows from a hash of their path below ``img_path``
            without the ending, so that it does not change when others are added.
            Defaults to None, no split.
        part (str, optional): With ``share``, the images to take: ``'train'`` or
            ``'val'``. Defaults to None.
        unpaired (str): What to do about images without a label: ``'error'``, or
            ``'skip'``, which logs their number. Defaults to ``'error'``.
        label_suffix (str, optional): What the names of the labels end with, before the
            ending of the file, if there are several for an image, such as
            ``'_gtFine_labelIds'``. Defaults to None.
        pipeline (Sequence[dict | Callable]): The transforms. Defaults to none.
        **kwargs: Further arguments of mmseg's ``BaseSegDataset``.

    Raises:
        ConfigError: If a path, a line of the table or of the list, or an argument is
            wrong, or an image has no label or several.
    """

    def __init__(
        self,
        classes: str | ClassTable,
        data_root: str | None = None,
        data_prefix: dict | None = None,
        ann_file: str = '',
        share: float | None = None,
        part: str | None = None,
        unpaired: str = 'error',
        label_suffix: str | None = None,
        pipeline: Sequence[dict | Callable] = (),
        **kwargs,
    ):
        for setting, advice in FIXED.items():
            if kwargs.pop(setting, None):
                raise ConfigError(f'{setting} of FolderSegDataset: {advice}')
        if kwargs.pop('ignore_index', IGNORED) != IGNORED:
            raise ConfigError(
                'ignore_index of FolderSegDataset: set ignore in the class table; '
                f'ignored pixels are {IGNORED}, as in the losses and the padding'
            )
        if (share is None) != (part is None) or part not in (None, *PARTS):
            raise ConfigError(
                f'share={share}, part={part!r}: expected both, such as share=0.1, '
                f'part={" or ".join(map(repr, PARTS))}'
            )
        if share is not None and not 0 < share < 1:
            raise ConfigError(f'share={share}: expected more than 0 and less than 1')
        if unpaired not in ('error', 'skip'):
            raise ConfigError(f"unpaired={unpaired!r}: expected 'error' or 'skip'")
        if not isinstance(classes, ClassTable):
            classes = ClassTable.read(
                _find_table(osp.expanduser(classes), osp.expanduser(data_root or ''))
            )
        self.table = classes
        data_root = data_root and osp.expanduser(data_root)
        data_prefix = {k: osp.expanduser(v) for k, v in (data_prefix or {}).items()}
        self.share, self.part = share, part
        self.unpaired, self.label_suffix = unpaired, label_suffix
        super().__init__(
            ann_file=ann_file,
            metainfo=dict(classes=classes.names, palette=classes.palette),
            data_root=data_root,
            data_prefix=data_prefix,
            pipeline=[_with_table(step, classes) for step in pipeline],
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Find the images and their labels.

        Returns:
            list[dict]: For each image ``img_path``, ``seg_map_path`` and the other
            fields of mmseg's data sets.

        Raises:
            ConfigError: If a folder has no image, an image has no label or several, or
                the list names an image that is not there.
        """
        root = self.data_prefix.get('img_path') or '.'
        label_root = self.data_prefix.get('seg_map_path')
        listed = self._listed_files(root)
        labels = []
        if label_root is not None:
            label_root = label_root or '.'
        if listed is not None:
            found = FoundImages(listed, {})
            if label_root is not None:
                labels = find_labels(root, label_root, self.label_suffix)
        elif label_root is None:
            found = find_images(root)
        else:
            found, labels = find_images_and_labels(root, label_root, self.label_suffix)
        images = found.files
        if self.ann_file and listed is None:
            images = self._listed(images, root)
        pairs = [(image, None) for image in images]
        if label_root is not None:
            found_pairs = pair_labels(
                images, root, labels, label_root, self.label_suffix
            )
            self._note_unpaired(found_pairs)
            pairs = found_pairs.pairs
        part = ''
        if self.share is not None:
            pairs = self._in_part(pairs, root)
            part = f' for {self.part} (share={self.share})'
        print_log(
            f'{root}: {found.describe()}; {len(pairs)} of them are used{part}',
            logger='current',
        )
        return [
            dict(
                img_path=image,
                **({} if label is None else dict(seg_map_path=label)),
                label_map=None,
                reduce_zero_label=False,
                seg_fields=[],
            )
            for image, label in pairs
        ]

    def _listed_files(self, root: str) -> list[str] | None:
        """Return the files of a list that names them with their endings, else None.

        The folder, which may have many others, need not be searched then.
        """
        if not self.ann_file:
            return None
        files = [osp.join(root, line) for line in read_list(self.ann_file)]
        complete = files and all(map(osp.isfile, files))
        return list(dict.fromkeys(files)) if complete else None

    def _listed(self, images: list[str], root: str) -> list[str]:
        """Return the images that the list names."""
        by_name = {name_below(image, root): image for image in images}
        by_name |= {osp.relpath(i, root).replace(osp.sep, '/'): i for i in images}
        lines = read_list(self.ann_file)
        absent = [line for line in lines if line not in by_name]
        if absent or not lines:
            names = f'names {_named(absent)}' if absent else 'names no image'
            raise ConfigError(
                f"the list '{self.ann_file}' {names}: expected images in '{root}' such "
                f'as {name_below(images[0], root)!r}'
            )
        return list(dict.fromkeys(by_name[line] for line in lines))

    def _in_part(self, pairs: list[tuple], root: str) -> list[tuple]:
        """Return the pairs that are for training, or those for validation."""
        held_out = for_validation([name_below(i, root) for i, _ in pairs], self.share)
        chosen = [p for p, val in zip(pairs, held_out) if val == (self.part == 'val')]
        if not chosen:
            raise ConfigError(
                f"share={self.share}: none of the {len(pairs)} images in '{root}' is "
                f"left for part='{self.part}'; choose another share"
            )
        return chosen

    def _note_unpaired(self, pairs: Pairs):
        """Refuse images without a label, or log them if they are to be skipped."""
        lone, others = map(_named, pairs[1:])
        if not lone:
            return
        count = len(pairs.images_without_label)
        message = (
            f'{count} of {count + len(pairs.pairs)} images have no label in '
            f"'{self.data_prefix['seg_map_path']}': {lone}"
        )
        if self.unpaired == 'error' or not pairs.pairs:
            raise ConfigError(
                f'{message}. '
                + (f'Labels without an image: {others}. ' if others else '')
                + 'An image and its label have the same path below their folders. Set '
                "unpaired='skip' to leave such images out"
            )
        print_log(
            f'{message}. They are left out', logger='current', level=logging.WARNING
        )


def _named(files: list[str]) -> str:
    return first_few([repr(file) for file in files])


def _find_table(path: str, data_root: str) -> str:
    below = osp.join(data_root, path)
    if not osp.isfile(below) and not osp.isfile(path):
        places = dict.fromkeys((below, osp.abspath(path)))
        raise ConfigError(
            f'classes={path!r}: there is no file {" or ".join(map(repr, places))}. '
            'Expected a CSV file with the columns value,name,colour,ignore'
        )
    return below if osp.isfile(below) else path


def _with_table(step: object, table: ClassTable) -> object:
    """Replace the loaders of labels in a part of a pipeline."""
    if isinstance(step, (list, tuple)):
        # A crop_size must stay a tuple.
        return type(step)(_with_table(item, table) for item in step)
    loader = dict(type=LoadLabels, classes=table)
    if isinstance(step, LoadAnnotations):
        return dict(loader, backend_args=step.backend_args)
    if not isinstance(step, dict):
        return step
    kind = step.get('type')
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if kind is LoadLabels:
        return {**loader, **step}
    if isinstance(kind, type) and issubclass(kind, LoadAnnotations):
        if step.get('reduce_zero_label'):
            raise ConfigError(
                f'reduce_zero_label of LoadAnnotations: {FIXED["reduce_zero_label"]}'
            )
        return dict(loader, backend_args=step.get('backend_args'))
    return {key: _with_table(value, table) for key, value in step.items()}


def for_validation(names: Sequence[str], share: float) -> list[bool]:
    """Choose the images for validation by a hash of their names.

    Args:
        names (Sequence[str]): Names of the images.
        share (float): Share of the images for validation.

    Returns:
        list[bool]: Whether each image is for validation. One at least is, and of
        several images one is not.
    """
    places = [_place(name) for name in names]
    limit = max(share, min(places, default=0) + 2**-53)
    if len(places) > 1:
        limit = min(limit, max(places))
    return [place < limit for place in places]


def _place(name: str) -> float:
    """Return a number from 0 to 1 that only depends on a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') / 2**64
