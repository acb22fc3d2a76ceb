"""ImageNet in folders, in tar shards and in an LMDB has the same samples."""

import runpy
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from mmmaskdistill.datasets import ImageNet
from mmmaskdistill.datasets.draws import DrawBatchSampler, SeededDataset
from mmmaskdistill.errors import ConfigError

TOOL = Path(__file__).parents[2] / 'tools/dataset_converters/pack_imagenet.py'
LOAD = [dict(type='mmmaskdistill.StrictLoadImageFromFile')]
CROP = [
    *LOAD,
    dict(type='mmmaskdistill.RandomJitteredCrop', scale=32),
    dict(type='mmpretrain.PackInputs'),
]


@pytest.fixture
def pack(monkeypatch):

    def run(root, *arguments):
        monkeypatch.setattr(sys, 'argv', ['pack', str(root), *arguments])
        runpy.run_path(str(TOOL), run_name='__main__')

    return run


@pytest.fixture
def root(tmp_path):
    """A folder with twelve images of three classes.

    One file name and the folder itself contain special characters.
    """
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / 'data # 1/train' / 'abc'[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        name, kind = (f'{i}.JPEG', '.jpg') if i else ('a b#c.d\u00e9.png', '.png')
        image = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        (folder / name).write_bytes(cv2.imencode(kind, image)[1].tobytes())
    return tmp_path / 'data # 1'


def build(root, storage='folder', pipeline=LOAD, **options):
    return ImageNet(
        data_root=str(root),
        split='train',
        metainfo=dict(classes=tuple('abc')),
        pipeline=pipeline,
        storage=storage,
        **options,
    )


def assert_same(samples, expected):
    assert len(samples) == len(expected) == 12
    for sample, other in zip(samples, expected):
        assert sample['gt_label'] == other['gt_label']
        assert np.array_equal(sample['img'], other['img'])


@pytest.mark.parametrize('storage', ['shards', 'lmdb'])
def test_packed_samples_equal_those_in_folders(root, pack, storage):
    if storage == 'lmdb':
        pytest.importorskip('lmdb')
    pack(root, '--format', storage, '--shard-size', '1')
    folders, packed = build(root), build(root, storage)
    assert_same(packed, folders)
    for k in range(12):  # the bytes of the files
        assert (
            fileio.get(packed.get_data_info(k)['img_path'])
            == Path(folders.get_data_info(k)['img_path']).read_bytes()
        )
    # mmcv's own loader reads packed images as well.
    toolkit = [dict(type='LoadImageFromFile')]
    assert_same(build(root, storage, toolkit), folders)


@pytest.mark.parametrize('storage', ['shards', 'lmdb'])
@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_read_files_that_the_main_process_has_opened(
    root, pack, storage, method
):
    if storage == 'lmdb':
        pytest.importorskip('lmdb')
    pack(root, '--format', storage)
    folders = [sample['img'] for sample in build(root)]
    dataset = build(root, storage)
    dataset[0]
    loader = DataLoader(
        dataset, 3, num_workers=1, collate_fn=list, multiprocessing_context=method
    )
    loaded = [sample['img'] for batch in loader for sample in batch]
    assert all(map(np.array_equal, loaded, folders))


def test_webdataset_reads_the_shards(root, pack):
    webdataset = pytest.importorskip('webdataset')
    pack(root, '--format', 'shards')
    shard = str(root / 'train_shards/000000.tar')
    with open(shard, 'rb') as stream:
        samples = list(
            webdataset.tariterators.tarfile_samples([dict(url=shard, stream=stream)])
        )
    folders = build(root)
    assert len(samples) == 12
    for k, sample in enumerate(samples):
        info = folders.get_data_info(k)
        image = sample.get('jpeg', sample.get('png'))
        assert image == Path(info['img_path']).read_bytes()
        assert int(sample['cls']) == info['gt_label']


def test_shards_without_an_index_can_be_indexed(root, pack):
    pack(root, '--format', 'shards')
    folder = root / 'train_shards'
    (folder / 'index.tsv').unlink()
    with pytest.raises(ValueError, match='index.tsv.* is missing; make it'):
        build(root, 'shards')
    pack(root, '--format', 'shards', '--index-only')
    assert_same(build(root, 'shards'), build(root))
    with tarfile.open(folder / '000001.tar', 'w') as tar:
        tar.add(root / 'train/b/1.JPEG', 'x/1.jpg')
    with pytest.raises(SystemExit, match="'x/1.jpg' but no file 'x/1.cls'"):
        pack(root, '--format', 'shards', '--index-only')


def test_images_are_split_into_several_shards(root, pack):
    for k in range(30):
        (root / f'train/c/big{k}.jpg').write_bytes(bytes(100_000))
    pack(root, '--format', 'shards', '--shard-size', '1')
    assert len(list((root / 'train_shards').glob('*.tar'))) == 3
    packed, folders = build(root, 'shards', []), build(root, 'folder', [])
    for sample, other in zip(packed, folders):
        assert fileio.get(sample['img_path']) == Path(other['img_path']).read_bytes()


def test_truncated_shards_are_reported(root, pack):
    pack(root, '--format', 'shards')
    path = root / 'train_shards/000000.tar'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OSError, match='ends within the image'):
        fileio.get(build(root, 'shards').get_data_info(5)['img_path'])


def test_wrong_settings_are_refused(root, pack):
    with pytest.raises(ValueError, match="storage='zip': expected folder, "):
        build(root, 'zip')
    with pytest.raises(ValueError, match="ann_file='a.txt' has no effect"):
        build(root, 'shards', ann_file='a.txt')
    with pytest.raises(ValueError, match='max_unreadable=2: expected 0 to 1'):
        build(root, max_unreadable=2)
    pack(root, '--format', 'shards')
    with pytest.raises(SystemExit, match='exists: remove it'):
        pack(root, '--format', 'shards')


def test_other_folders_than_imagenets_are_named(root):
    with pytest.raises(ConfigError) as error:
        ImageNet(data_root=str(root), split='train', pipeline=LOAD)
    assert str(error.value) == (
        f"'{root}/train' is not ImageNet: The number of subfolders (3) doesn't match "
        'the number of specified classes (1000). Please check the data folder. For '
        "images without labels, set type='mmmaskdistill.ImageFolder' and paths of the "
        "data set; for folders of your own classes, type='CustomDataset'"
    )


def damage(root, *names):
    for name in names:
        (root / 'train' / name).write_bytes(b'\xff\xd8 no image')


def stack_inputs(samples):
    return torch.stack([sample['inputs'] for sample in samples])


def batches(dataset, num_workers, start=0):
    dataset = SeededDataset(dataset, seed=3)
    sampler = DefaultSampler(dataset, seed=1)
    loader = DataLoader(
        dataset,
        batch_sampler=DrawBatchSampler(sampler, 3, start=start),
        num_workers=num_workers,
        collate_fn=stack_inputs,
    )
    return list(loader)


def test_damaged_files_are_replaced_by_other_images(root, monkeypatch):
    damage(root, 'b/1.JPEG', 'c/5.JPEG')
    logged = []
    monkeypatch.setattr(
        'mmmaskdistill.datasets.unreadable.print_log',
        lambda message, **kwargs: logged.append(message),
    )
    dataset = build(root, pipeline=CROP, max_unreadable=0.2)
    here = torch.cat(batches(dataset, 0))
    assert len(here) == 12
    assert dataset.num_unreadable == 2
    batches(dataset, 0)
    assert len(logged) == 2  # Each damaged file is logged only once.
    assert "b/1.JPEG'" in ''.join(logged) and "c/5.JPEG'" in ''.join(logged)

    # The replacement depends only on the draw's seed. Worker processes and
    # resumed runs therefore choose the same image.
    other = build(root, pipeline=CROP, max_unreadable=0.2)
    assert torch.equal(here, torch.cat(batches(other, 2)))
    assert other.num_unreadable == 2  # The main process sees the workers' counts.
    resumed = build(root, pipeline=CROP, max_unreadable=0.2)
    assert torch.equal(here[6:], torch.cat(batches(resumed, 0, start=2)))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_too_many_damaged_files_stop_the_run(root, num_workers):
    damage(root, 'b/1.JPEG', 'c/5.JPEG', 'a/3.JPEG')
    dataset = build(root, pipeline=CROP, max_unreadable=0.2)
    with pytest.raises(ValueError) as error:
        batches(dataset, num_workers)
    assert '3 of 12 images cannot be loaded, max_unreadable=0.2' in str(error.value)


def test_missing_files_count_as_unreadable(root):
    dataset = build(root, max_unreadable=0.2)
    path = dataset.get_data_info(0)['img_path']
    Path(path).unlink()
    assert dataset[0]['img_path'] != path
    assert dataset.num_unreadable == 1


def test_damaged_files_are_not_replaced_in_test_mode(root):
    damage(root, 'b/1.JPEG')
    dataset = build(root, test_mode=True, max_unreadable=0.2)
    with pytest.raises(OSError, match="cannot load the image '.*b/1.JPEG'"):
        [dataset[k] for k in range(len(dataset))]
