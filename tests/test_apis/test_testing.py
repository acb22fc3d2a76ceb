"""What is written about a test, and configs whose test data has no labels."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine import load
from mmengine.config import Config
from PIL import Image

from mmmaskdistill.apis import testing
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.evaluation import ClassificationReport, SegmentationReport
from mmmaskdistill.evaluation.reports import WorstClassification, WorstSegmentation

IOU = dict(type='IoUMetric', iou_metrics=['mIoU'])
LOAD_LABELS = dict(type='LoadAnnotations')


def make_files(folder, labels):
    """Three images, some of them with labels."""
    for k in range(3):
        for name, mode in (('images', 'RGB'), ('labels', 'L')):
            (folder / name).mkdir(exist_ok=True)
            if name == 'images' or k < labels:
                Image.new(mode, (8, 6)).save(folder / name / f'{k}.png')
    (folder / 'classes.csv').write_text('value,name\n0,a\n1,b\n')


def config(folder, kind, labels='labels', loads=True, **kwargs):
    prefix = dict(img_path='images')
    if labels:
        prefix['seg_map_path'] = labels
    dataset = dict(
        type=kind,
        data_root=str(folder),
        data_prefix=prefix,
        pipeline=[
            dict(type='LoadImageFromFile'),
            *[LOAD_LABELS] * loads,
            dict(type='PackSegInputs'),
        ],
        **kwargs,
    )
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(decode_head=dict(type='FCNHead', num_classes=2)),
            test_dataloader=dict(dataset=dataset),
            test_evaluator=IOU,
        )
    )


KINDS = {
    'BaseSegDataset': dict(img_suffix='.png', metainfo=dict(classes=['a', 'b'])),
    'mmmaskdistill.FolderSegDataset': dict(classes='classes.csv'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_labels_that_exist_are_used(tmp_path, kind):
    make_files(tmp_path, labels=3)
    cfg = config(tmp_path, kind, **KINDS[kind])
    before = cfg.to_dict()
    for predictions in (True, False):
        assert not testing.use_without_labels(cfg, predictions)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('labels', [None, 'nowhere'])
def test_without_labels_nothing_looks_for_them(tmp_path, kind, labels):
    make_files(tmp_path, labels=0)
    cfg = config(tmp_path, kind, labels, **KINDS[kind])
    assert testing.use_without_labels(cfg, True)
    dataset = cfg.test_dataloader.dataset
    assert dataset.data_prefix == dict(img_path='images')
    assert LOAD_LABELS not in dataset.pipeline and len(dataset.pipeline) == 2
    assert cfg.test_evaluator == []


def test_a_data_set_of_which_a_part_has_no_labels_has_none(tmp_path):
    make_files(tmp_path, labels=3)
    cfg = config(tmp_path, 'BaseSegDataset', **KINDS['BaseSegDataset'])
    part = cfg.test_dataloader.dataset
    other = dict(part, data_prefix=dict(img_path='images'))
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, other])
    with pytest.raises(ConfigError, match='the images of test_dataloader have no lab'):
        testing.use_without_labels(cfg, False)
    assert testing.use_without_labels(cfg, True)
    for part in cfg.test_dataloader.dataset.datasets:
        assert part.data_prefix == dict(img_path='images')


def test_metrics_that_only_write_files_remain(tmp_path):
    make_files(tmp_path, labels=0)
    cfg = config(tmp_path, 'BaseSegDataset', None, **KINDS['BaseSegDataset'])
    kept = dict(IOU, format_only=True, output_dir='out')
    cfg.test_evaluator = [IOU, kept]
    assert testing.use_without_labels(cfg, False)
    assert cfg.test_evaluator == [kept]


def test_some_missing_labels_are_left_to_the_check(tmp_path):
    make_files(tmp_path, labels=1)
    cfg = config(tmp_path, 'BaseSegDataset', **KINDS['BaseSegDataset'])
    assert not testing.use_without_labels(cfg, True)


def test_depth_has_no_task():
    cfg = Config(dict(default_scope='other', model=dict(type='Depth')))
    assert testing.task_of(cfg) is None
    assert not testing.use_without_labels(cfg, True)
    with pytest.raises(ConfigError, match='are for segmentation and classification'):
        testing.collect(None, None, report=True, required=True)


def segmentation(matrix, classes=('a', 'b')):
    report = SegmentationReport(1)
    report.dataset_meta = dict(classes=classes)
    report.matrix = torch.tensor(matrix)
    return report


@pytest.mark.parametrize(
    'path, files',
    [
        ('new/x.csv', ['x.csv']),
        ('new/x.PNG', ['x.PNG']),
        ('new', ['confusion.csv', 'confusion.png']),
    ],
)
def test_ending_decides_what_is_written(tmp_path, path, files):
    report = segmentation([[3, 1, 0], [0, 5, 0], [0, 0, 0]], ['a, "b"', 'ß'])
    written = testing.write_confusion(report, str(tmp_path / path))
    assert sorted(os.listdir(tmp_path / 'new')) == files
    assert sorted(written) == [str(tmp_path / 'new' / name) for name in files]
    if files[0].endswith('csv'):
        with open(tmp_path / 'new' / files[0], newline='', encoding='utf-8') as file:
            assert list(csv.reader(file)) == [
                ['true / predicted', 'a, "b"', 'ß'],
                ['a, "b"', '3', '1'],
                ['ß', '0', '5'],
            ]


def test_labels_that_are_no_class_have_a_row(tmp_path):
    report = segmentation([[3, 1, 0], [0, 5, 0], [0, 7, 0]])
    testing.write_confusion(report, str(tmp_path / 'x.csv'))
    rows = (tmp_path / 'x.csv').read_text().splitlines()
    assert rows[0] == 'true / predicted,a,b,other' and rows[3] == 'other,0,7,0'


def test_files_of_metrics_are_plain(tmp_path):
    report = segmentation([[0, 0, 0], [0, 5, 0], [0, 0, 0]])
    metrics = dict(mIoU=np.float32(50), aAcc=torch.tensor(100.0))
    for ending in ('json', 'yml', 'pkl'):
        path = str(tmp_path / f'm.{ending}')
        testing.write_metrics(metrics, report, path, worst=True)
        content = load(path)
        assert content['mIoU'] == 50 and content['aAcc'] == 100
        assert [item['IoU'] for item in content['classes']] == [None, 100.0]
        assert content['worst'] == []
    name = os.fsdecode(b'\xff.png')
    report.worst = [WorstSegmentation(0.0, 0.0, 0, name, None, None)]
    testing.write_metrics(metrics, report, str(tmp_path / 'm.json'), worst=True)
    assert load(tmp_path / 'm.json')['worst'][0]['image'] == name
    testing.write_metrics(metrics, None, str(tmp_path / 'm.json'))
    assert json.loads((tmp_path / 'm.json').read_text()) == dict(mIoU=50, aAcc=100)


class Colored:
    """A data set of a single image that is completely red."""

    metainfo = dict(classes=['a', 'b'])

    def __init__(self, path=None):
        self.path = path
        self.pipeline = Compose([LoadImageFromFile()] if path else [])

    def get_data_info(self, index):
        if self.path:
            return dict(img_path=self.path)
        return dict(img=np.full((20, 20, 3), (0, 0, 255), np.uint8))

    def __len__(self):
        return 1


@pytest.mark.parametrize('on_disk', [True, False])
@pytest.mark.parametrize('kind', [SegmentationReport, ClassificationReport])
def test_pictures_of_the_worst_images_have_their_colors(tmp_path, on_disk, kind):
    path = None
    if on_disk:
        path = str(tmp_path / os.fsdecode(b'\xff.png'))
        Image.new('RGB', (20, 20), (255, 0, 0)).save(path)
    report = kind(1, worst=1)
    report.dataset_meta = dict(classes=['a', 'b'], palette=[[0, 200, 0], [0, 0, 200]])
    assert testing.write_worst(report, Colored(path), str(tmp_path / 'new')) is None
    labels = np.zeros((20, 20), np.int32)
    if kind is SegmentationReport:
        report.worst = [WorstSegmentation(0.0, 0.0, 0, path, labels, labels + 1)]
    else:
        report.worst = [WorstClassification(90.0, 0, path, 0, 1)]
        report.matrix = torch.eye(2, dtype=torch.int64)
    file = testing.write_worst(report, Colored(path), str(tmp_path / 'new'))
    assert file == str(tmp_path / 'new' / 'worst.png')
    picture = np.asarray(Image.open(file).convert('RGB'))
    # A tile has 352 x 352 pixels.
    assert (picture == (255, 0, 0)).all(-1).sum() == pytest.approx(352**2, rel=0.02)
