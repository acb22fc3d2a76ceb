"""A data set of two folders and a table of classes, in mmseg's pipelines."""

import os

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from PIL import Image

from mmmaskdistill.datasets import (
    ClassRow,
    ClassTable,
    FolderSegDataset,
    folder_segmentation,
    for_validation,
)
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS

TABLE = ClassTable(
    [
        ClassRow(0, 'road', (1, 2, 3)),
        ClassRow(1, 'void', None, True),
        ClassRow(2, 'sky', (4, 5, 6)),
    ]
)
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
TRAIN = [
    *LOAD,
    dict(type='RandomResize', scale=(40, 30), ratio_range=(0.8, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(16, 16), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
TTA = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='ResizeShortestEdge', scale=s, max_size=99) for s in (8, 16)],
            [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]


def label(size=(20, 30), classes=3, seed=0):
    return np.random.default_rng(seed).integers(0, classes, size, np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """Six images, and labels of other formats in folders of the same layout."""
    for k, name in enumerate(('a/0', 'a/1', 'b/2', '3', '4', '5')):
        save(tmp_path / f'images/{name}.jpg', np.full((20, 30, 3), 9, np.uint8))
        ending = ('png', 'tif', 'bmp')[k % 3]
        save(tmp_path / f'labels/{name}.{ending}', label(seed=k))
    TABLE.write(tmp_path / 'classes.csv')
    init_default_scope('mmseg')
    return tmp_path


def build(root, **options):
    return DATASETS.build(
        dict(
            dict(
                type='mmmaskdistill.FolderSegDataset',
                data_root=str(root),
                data_prefix=dict(img_path='images', seg_map_path='labels'),
                classes='classes.csv',
                pipeline=LOAD,
                serialize_data=False,  # which takes a second of garbage collection
            ),
            **options,
        )
    )


def names(dataset):
    return [
        os.path.splitext(
            os.path.relpath(item['img_path'], dataset.data_prefix['img_path'])
        )[0]
        for item in (dataset.get_data_info(k) for k in range(len(dataset)))
    ]


def test_classes_come_from_the_table(root):
    dataset = build(root)
    assert isinstance(dataset, BaseSegDataset)
    assert dataset.metainfo['classes'] == ['road', 'sky']
    assert dataset.metainfo['palette'] == [[1, 2, 3], [4, 5, 6]]
    assert names(dataset) == ['3', '4', '5', 'a/0', 'a/1', 'b/2']
    seed = dict(zip(('a/0', 'a/1', 'b/2', '3', '4', '5'), range(6)))
    for name, item in zip(names(dataset), dataset):
        expected = np.array([0, 255, 1])[label(seed=seed[name])]
        assert np.array_equal(item['gt_seg_map'], expected)


def test_augmentations_and_the_metric_of_mmseg_work(root):
    dataset = build(root, pipeline=TRAIN)
    metric = IoUMetric()
    metric.dataset_meta = dataset.metainfo
    total = np.zeros(2)
    for item in dataset:
        assert item['inputs'].shape == (3, 16, 16)
        truth = item['data_samples'].gt_sem_seg.data
        assert set(truth.unique().tolist()) <= {0, 1, 255}
        total += [(truth == 0).sum(), (truth == 1).sum()]
        sample = dict(pred_sem_seg=dict(data=truth * 0), gt_sem_seg=dict(data=truth))
        metric.process({}, [sample])
    # All pixels are predicted as road, and void does not count.
    found = metric.compute_metrics(metric.results)
    share = 100 * total[0] / total.sum()
    assert found['mIoU'] == pytest.approx(share / 2, abs=0.01)
    assert found['aAcc'] == pytest.approx(share, abs=0.01)


def test_labels_are_loaded_in_test_time_augmentation(root):
    item = build(root, pipeline=TTA, test_mode=True)[0]
    assert [x.shape[1:] for x in item['inputs']] == [(8, 12)] * 2 + [(16, 24)] * 2
    for sample in item['data_samples']:
        assert sample.gt_sem_seg.data.shape == (1, 20, 30)
        assert set(sample.gt_sem_seg.data.unique().tolist()) == {0, 1, 255}


def test_own_loaders_of_the_table_are_kept(root):
    other = ClassTable([ClassRow(k, f'c{k}') for k in range(3)])
    other.write(root / 'other.csv')
    own = dict(type='mmmaskdistill.LoadLabels', classes=str(root / 'other.csv'))
    for step, values in (
        (own, {0, 1, 2}),
        (dict(type='mmmaskdistill.LoadLabels'), {0, 1, 255}),
        (dict(type='mmseg.LoadAnnotations', reduce_zero_label=False), {0, 1, 255}),
    ):
        item = build(root, pipeline=[LOAD[0], step])[0]
        assert set(np.unique(item['gt_seg_map'])) == values


def test_a_list_chooses_images(root):
    (root / 'own.txt').write_text('b/2\n\n3.jpg\nb/2.jpg\n')
    assert names(build(root, ann_file='own.txt')) == ['b/2', '3']
    (root / 'own.txt').write_text('3\n7\n')
    with pytest.raises(
        ConfigError,
        match=r"own.txt' names '7': expected images in .* "
        "such as '3'",
    ):
        build(root, ann_file='own.txt')
    (root / 'own.txt').write_text('')
    with pytest.raises(ConfigError, match="own.txt' names no image: expected"):
        build(root, ann_file='own.txt')


def test_a_list_with_endings_needs_no_search(root, monkeypatch):
    """The folder of the images may have many others."""

    def search(*args):
        raise AssertionError(args)

    monkeypatch.setattr(folder_segmentation, 'find_images_and_labels', search)
    (root / 'own.txt').write_text('b/2.jpg\n3.jpg\n')
    assert names(build(root, ann_file='own.txt')) == ['b/2', '3']
    (root / 'own.txt').write_text('b/2.jpg\n3\n')
    with pytest.raises(AssertionError):
        build(root, ann_file='own.txt')


def test_of_several_images_one_is_for_training_and_one_for_validation():
    for share in (1e-9, 0.999999999):
        chosen = for_validation(['a', 'b', 'c'], share)
        assert 0 < sum(chosen) < 3
    assert for_validation(['a'], 0.5) == [True] and for_validation([], 0.5) == []


def test_parts_do_not_change_when_images_are_added(tmp_path):
    init_default_scope('mmseg')
    TABLE.write(tmp_path / 'classes.csv')

    def add(numbers):
        for k in numbers:
            save(tmp_path / f'images/{k}.png', label())
            save(tmp_path / f'labels/{k}.png', label())

    def split():
        parts = [names(build(tmp_path, share=0.3, part=p)) for p in ('train', 'val')]
        assert not set(parts[0]) & set(parts[1])
        return map(set, parts)

    add(range(60))
    train, val = split()
    assert len(train) + len(val) == 60 and 8 <= len(val) <= 28
    add(range(60, 90))
    more_train, more_val = split()
    assert train <= more_train and val <= more_val
    assert len(more_train) + len(more_val) == 90


def test_a_small_share_has_one_image(root):
    train = names(build(root, share=1e-6, part='train'))
    val = names(build(root, share=1e-6, part='val'))
    assert len(val) == 1 and sorted(train + val) == names(build(root))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(share=0.1), 'share=0.1, part=None: expected both'),
        (dict(part='val'), "share=None, part='val': expected both"),
        (
            dict(share=0.1, part='test'),
            "part='test': expected both, .*'train' or 'val'",
        ),
        (
            dict(share=1.0, part='val'),
            'share=1.0: expected more than 0 and less than 1',
        ),
        (dict(unpaired='drop'), "unpaired='drop': expected 'error' or 'skip'"),
        (dict(reduce_zero_label=True), 'reduce_zero_label .*: set ignore in the line'),
        (dict(ignore_index=11), 'ignore_index of FolderSegDataset: set ignore in'),
        (dict(img_suffix='.png'), 'img_suffix of FolderSegDataset: all formats'),
        (dict(metainfo=dict(classes=['a'])), 'metainfo of FolderSegDataset: the class'),
        (
            dict(classes='no.csv'),
            r"classes='no.csv': there is no file '.*no.csv' or '.*",
        ),
        (
            dict(pipeline=[dict(LOAD[1], reduce_zero_label=True)]),
            'reduce_zero_label of LoadAnnotations: set ignore in the line of value 0',
        ),
        (dict(data_prefix=dict(img_path='none', seg_map_path='labels')), "'.*/none'"),
    ],
)
def test_wrong_settings_are_named(root, options, message):
    with pytest.raises(ConfigError, match=message):
        build(root, **options)


def test_images_without_a_label_are_named_or_skipped(root):
    os.remove(root / 'labels/a/0.png')
    save(root / 'labels/a/00.png', label())
    with pytest.raises(ConfigError) as error:
        build(root)
    assert str(error.value) == (
        f"1 of 6 images have no label in '{root}/labels': '{root}/images/a/0.jpg'. "
        f"Labels without an image: '{root}/labels/a/00.png'. An image and its label "
        "have the same path below their folders. Set unpaired='skip' to leave such "
        'images out'
    )
    assert names(build(root, unpaired='skip')) == ['3', '4', '5', 'a/1', 'b/2']
    images_only = build(root, data_prefix=dict(img_path='images'), pipeline=LOAD[:1])
    assert len(images_only) == 6 and 'seg_map_path' not in images_only[0]
    for name in ('a/1.tif', 'b/2.bmp', '3.png', '4.tif', '5.bmp'):
        os.remove(root / 'labels' / name)
    with pytest.raises(ConfigError, match='6 of 6 images have no label'):
        build(root, unpaired='skip')


def test_images_and_labels_may_share_a_folder(tmp_path):
    init_default_scope('mmseg')
    TABLE.write(tmp_path / 'classes.csv')
    for k in range(3):
        save(tmp_path / f'all/{k}.png', np.zeros((20, 30, 3), np.uint8))
        save(tmp_path / f'all/{k}_mask.png', label(seed=k))
    folder = dict(img_path='all', seg_map_path='all')
    dataset = build(tmp_path, data_prefix=folder)
    assert names(dataset) == ['0', '1', '2']
    assert np.array_equal(dataset[2]['gt_seg_map'] == 1, label(seed=2) == 2)


def test_paths_may_start_at_home(root, monkeypatch):
    monkeypatch.setenv('HOME', str(root.parent))
    home = build(f'~/{root.name}')
    assert names(home) == names(build(root)) and 'gt_seg_map' in home[0]


def test_the_table_may_lie_in_the_working_folder(root, tmp_path, monkeypatch):
    (tmp_path / 'work').mkdir()
    TABLE.write(tmp_path / 'work/own.csv')
    monkeypatch.chdir(tmp_path / 'work')
    assert build(root, classes='own.csv').table.names == ['road', 'sky']
    assert build(root, classes=str(tmp_path / 'work/own.csv')).table.rows == TABLE.rows
    assert FolderSegDataset(TABLE, str(root), lazy_init=True).table is TABLE
