import json

import numpy as np
import pytest
from PIL import Image

import mmmaskdistill  # noqa: F401
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS

CLASSES = dict(
    classes=['grass', 'gravel', 'moon'], palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]]
)
PIPELINE = [dict(type='mmseg.LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]


@pytest.fixture
def root(tmp_path):
    for folder in ('images/training', 'annotations/training'):
        (tmp_path / 'ade' / folder).mkdir(parents=True)
    for index in range(2):
        labels = np.full((8, 8), index + 1, np.uint8)
        labels[0] = 0
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(
            tmp_path / f'ade/images/training/{index}.jpg'
        )
        Image.fromarray(labels).save(tmp_path / f'ade/annotations/training/{index}.png')
    (tmp_path / 'classes.json').write_text(json.dumps(CLASSES))
    return tmp_path / 'ade'


def build(root):
    return DATASETS.build(
        dict(
            type='mmmaskdistill.TextureMosaicDataset',
            data_root=str(root),
            data_prefix=dict(
                img_path='images/training', seg_map_path='annotations/training'
            ),
            pipeline=PIPELINE,
        )
    )


def test_classes_and_labels_are_read_from_the_files(root):
    dataset = build(root)
    assert (
        list(dataset.metainfo['classes']) == CLASSES['classes']
        and dataset.metainfo['palette'] == CLASSES['palette']
    )
    assert len(dataset) == 2
    for index in range(2):
        labels = dataset[index]['gt_seg_map']
        assert (labels[1:] == index).all() and (labels[0] == 255).all()


def test_missing_class_file_error_names_the_tool(root):
    (root.parent / 'classes.json').unlink()
    with pytest.raises(ConfigError, match='texture_mosaics.py'):
        build(root)
