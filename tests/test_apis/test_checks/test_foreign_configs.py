"""Configs of mmseg without any part of this project."""

import glob
import os.path as osp

import mmseg
import pytest
from helpers.image_files import labels, picture, save
from mmengine.config import Config

from mmmaskdistill.apis.checks.heads import data_preprocessor, find_heads

BASE = osp.join(osp.dirname(mmseg.__file__), '.mim/configs/_base_')
# What is made for another task than classes of pixels.
OTHER = ('vpd_sd.py',)


def test_the_heads_of_all_models_of_mmseg_are_found():
    paths = sorted(glob.glob(f'{BASE}/models/*.py'))
    assert len(paths) > 40
    for path in paths:
        cfg = Config.fromfile(path)
        cfg.default_scope = 'mmseg'
        heads = find_heads(cfg)
        assert any(head.segments for head in heads) != path.endswith(OTHER), path
        assert all(len(head.losses) for head in heads if head.segments)
        assert data_preprocessor(cfg)[1].type == 'SegDataPreProcessor'


def foreign(data, num_classes, **change):
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=Config.fromfile(f'{BASE}/models/upernet_r50.py').model,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
            val_cfg=dict(type='ValLoop'),
            **Config.fromfile(f'{BASE}/datasets/{data}.py')._cfg_dict.to_dict(),
        )
    )
    cfg.model.data_preprocessor.size = cfg.crop_size
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = num_classes
    cfg.test_dataloader = cfg.test_evaluator = None
    cfg.merge_from_dict(change)
    return cfg


@pytest.mark.parametrize('part', ['train', 'val'])
def test_potsdam_is_checked(tmp_path, monkeypatch, found, part):
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        for k in range(2):
            save(picture(), tmp_path / f'data/potsdam/img_dir/{split}/{k}.png')
            path = tmp_path / f'data/potsdam/ann_dir/{split}/{k}.png'
            save(labels(classes=7), path)
    cfg = foreign('potsdam', 6)
    assert found(cfg) == ([], [])
    pixels = labels(classes=7)
    pixels[0, 0] = 7
    save(pixels, tmp_path / f'data/potsdam/ann_dir/{part}/1.png')
    errors, warnings = found(cfg)
    (text,) = errors if part == 'train' else warnings
    assert 'label 6 ' in text and f'{part}/1.png' in text


def test_pascal_voc_with_two_lists_is_checked(tmp_path, monkeypatch, found):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'data/VOCdevkit/VOC2012'
    for k in range(6):
        save(picture(), root / f'JPEGImages/{k}.jpg')
        for folder in ('SegmentationClass', 'SegmentationClassAug'):
            pixels = labels(classes=21)
            pixels[:2] = 255
            save(pixels, root / f'{folder}/{k}.png')
    lists = root / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    for name, numbers in dict(train='01', aug='23', val='45').items():
        (lists / f'{name}.txt').write_text('\n'.join(numbers))
    cfg = foreign('pascal_voc12_aug', 21)
    assert found(cfg) == ([], [])
    (lists / 'aug.txt').write_text('2\n4\n9')
    errors, warnings = found(cfg)
    assert errors[0].startswith(
        '1 of 3 images of train_dataloader.dataset.datasets.1 does not exist: data/'
    )
    assert warnings[0].startswith('1 of the 2 images to evaluate on are also trained')
