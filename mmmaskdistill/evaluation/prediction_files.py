"""Write predictions to files while a test runs, so that none stays in memory."""

import os
import os.path as osp
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from PIL import Image
from torch import Tensor

from mmmaskdistill.datasets.result_names import distinct_names

from .collectors import Collector
from .reports import label_map


class PredictionFile(Collector):
    """Write the predictions of all images to a pickle file.

    The file holds a list with a dict for each image, in the order of the data set. It
    contains what the toolkit's data sample has, with tensors on the CPU. A segmentation
    is kept as label maps only: its logits, which take a hundred times the space, are
    left out, and the label maps are uint8, or int32 if a label is above 255.

    The predictions go to ``PATH.part0`` while the test runs, and to a further file for
    each further process. All processes must therefore see the same folder.

    Args:
        path (str): Path of the file. Its folder is made if it does not exist.
        size (int): Number of images of the data set.
    """

    def __init__(self, path: str, size: int):
        super().__init__(size)
        self.path = path
        self._file = None

    def add(self, position: int, sample: dict) -> None:
        """Write the prediction of an image to the file of this process."""
        self._open()
        pickle.dump(_slim(sample), self._file, pickle.HIGHEST_PROTOCOL)

    def evaluate(self, size: int) -> dict:
        """Put the files of the processes together.

        Args:
            size (int): Number of images of the data set, which is not used.

        Returns:
            dict: No metrics.
        """
        self._open()
        self._file.close()
        barrier()
        if is_main_process():
            unfinished = f'{self.path}.tmp'
            with open(unfinished, 'wb') as file:
                pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
                # The pickler would keep each object to recognize it later.
                pickler.fast = True
                pickler.dump(_LazyList(self._predictions()))
            os.replace(unfinished, self.path)
        barrier()
        os.remove(self._part(get_rank()))
        self._file, self._seen = None, 0
        return {}

    def _open(self) -> None:
        if self._file is None:
            os.makedirs(osp.dirname(osp.abspath(self.path)), exist_ok=True)
            self._file = open(self._part(get_rank()), 'wb')  # noqa: SIM115

    def _part(self, rank: int) -> str:
        return f'{self.path}.part{rank}'

    def _predictions(self) -> Iterator[dict]:
        processes = get_world_size()
        files = [open(self._part(rank), 'rb') for rank in range(processes)]  # noqa: SIM115
        try:
            for position in range(self.size):
                yield pickle.load(files[position % processes])
        finally:
            for file in files:
                file.close()


class _LazyList:
    """Pickled as a list of items, of which few are in memory at a time."""

    def __init__(self, items: Iterator):
        self.items = items

    def __reduce__(self) -> tuple:
        return list, (), None, self.items


class LabelMapFolder(Collector):
    """Write predicted label maps as gray PNG files.

    A value of a file is the number of the class. Where the data set ignores label 0 and
    counts the classes from 1 (``reduce_zero_label``), as that of ADE20K does, the value
    is this number plus 1, like that of the data set's own label files. The files have
    16 bits if there are values above 255.

    Args:
        folder (str): Folder of the files, which is made if it does not exist.
        records (list[dict]): What the data set knows of each image: ``img_path`` and
            ``reduce_zero_label``, if it has them.
    """

    def __init__(self, folder: str, records: list[dict]):
        super().__init__(len(records))
        self.folder = folder
        self._shifted = [bool(record.get('reduce_zero_label')) for record in records]
        paths = [record.get('img_path') for record in records]
        self._names = dict(zip(paths, file_names(paths)))
        os.makedirs(folder, exist_ok=True)

    def add(self, position: int, sample: dict) -> None:
        """Write the label map of an image."""
        name = self._names.get(sample.get('img_path')) or f'{position:06d}.png'
        path = osp.join(self.folder, name)
        os.makedirs(osp.dirname(path), exist_ok=True)
        shifted = any(self._shifted)
        labels = label_map(sample['pred_sem_seg']).long()
        # A data set may consist of several, of which not all count from 1.
        shift = sample.get('reduce_zero_label', self._shifted[position])
        wide = len(self.classes) - 1 + shifted > 255
        labels = (labels + bool(shift)).cpu().numpy()
        Image.fromarray(labels.astype('uint16' if wide else 'uint8')).save(path)


def file_names(paths: list[str | None]) -> list[str | None]:
    """Choose a name for the label map of each image.

    It is the path of the image below the folder that contains all of them, with the
    ending ``.png``, or a longer one if two would be the same, see
    :func:`mmmaskdistill.datasets.result_names.distinct_names`.

    Args:
        paths (list[str | None]): Paths of the images.

    Returns:
        list[str | None]: Names, of which two are equal only if the paths are. None for
        an image without a path.
    """
    known = sorted({path for path in paths if isinstance(path, str)})
    if not known:
        return [None] * len(paths)
    absolute = [osp.abspath(path) for path in known]
    shared = osp.commonpath([osp.dirname(path) for path in absolute])
    below = [Path(osp.relpath(path, shared)).as_posix() for path in absolute]
    names = dict(zip(known, distinct_names(known, below)))
    return [f'{names[path]}.png' if path in names else None for path in paths]


def _slim(sample: dict) -> dict:
    """Leave out logits, and store label maps in the smallest type."""
    sample = {key: value for key, value in sample.items() if key != 'seg_logits'}
    keys = [key for key in ('pred_sem_seg', 'gt_sem_seg') if key in sample]
    tensors = [sample[key]['data'] for key in keys]
    # Both have the same type, so that comparing them cannot wrap a label around.
    small = all(t.numel() == 0 or (t.min() >= 0 and t.max() <= 255) for t in tensors)
    dtype = torch.uint8 if small else torch.int32
    for key, tensor in zip(keys, tensors):
        sample[key] = dict(sample[key], data=tensor.to(dtype))
    return _copied(sample)


def _copied(value: Any) -> Any:
    """Copy tensors to the CPU, without the rest of the batch that they are views of."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, '_fields'):
        return type(value)(_copied(item) for item in value)
    return value
