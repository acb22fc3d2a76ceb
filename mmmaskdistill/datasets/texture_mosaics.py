"""Dataset of the mosaics that the texture mosaics converter makes."""

import json
from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS


def read_classes(data_root: str) -> dict:
    """Read the class names and the palette of texture mosaics.

    Args:
        data_root (str): Folder that contains ``classes.json``, or whose parent
            contains it.

    Returns:
        dict: ``classes``, a list of K names, and ``palette``, a list of K colors
        [red, green, blue].

    Raises:
        ConfigError: If there is no ``classes.json``.
    """
    for folder in (Path(data_root), Path(data_root).parent):
        if (folder / 'classes.json').is_file():
            return json.loads((folder / 'classes.json').read_text())
    raise ConfigError(
        f"there is no classes.json in '{data_root}' or its parent folder: make the "
        'data set with python tools/dataset_converters/texture_mosaics.py'
    )


@DATASETS.register_module()
class TextureMosaicDataset(BaseSegDataset):
    """Mosaics of textures with the folders and the label convention of ADE20K.

    The files are made by ``tools/dataset_converters/texture_mosaics.py``. The
    labels of the K classes are 1 to K on disk, where 0 is ignored, and 0 to K-1
    for the model. Class names and palette are read from ``classes.json``.

    Args:
        data_root (str): Folder that contains ``images`` and ``annotations``; the
            converter names it ``OUT/ade``.
        reduce_zero_label (bool): Whether to ignore label 0 and to subtract 1 from
            the others. Defaults to True.
        **kwargs: Arguments of mmseg's ``BaseSegDataset``.

    Raises:
        ConfigError: If there is no ``classes.json`` in ``data_root`` or its parent
            folder.
    """

    def __init__(
        self, data_root: str, reduce_zero_label: bool = True, **kwargs
    ) -> None:
        super().__init__(
            data_root=data_root,
            reduce_zero_label=reduce_zero_label,
            metainfo=read_classes(data_root),
            **kwargs,
        )
