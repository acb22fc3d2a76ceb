"""The texture mosaics of `tools/dataset_converters/texture_mosaics.py`, as a segmentation data set."""

import json
from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS


def read_classes(data_root: str) -> dict:
    """Class names and palette from the `classes.json` in `data_root` or in its parent folder.

    Returns:
        dict(classes=[K names], palette=[K lists of red, green, blue])
    """
    for folder in (Path(data_root), Path(data_root).parent):
        if (folder / 'classes.json').is_file():
            return json.loads((folder / 'classes.json').read_text())
    raise ConfigError(
        f"no classes.json in '{data_root}' or its parent: make the data set with "
        'python tools/dataset_converters/texture_mosaics.py'
    )


@DATASETS.register_module()
class TextureMosaicDataset(BaseSegDataset):
    """Mosaics of textures with ADE20K's folders and label convention: 1..K on disk, 0 ignored, 0..K-1 for the model.

    Args:
        data_root: the folder that holds `images/` and `annotations/`, `OUT/ade` of the converter.
        kwargs: as for mmseg's `BaseSegDataset`; classes and palette are those of the converter's `classes.json`.
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
