"""Each task trains on satellite images: TIFFs of four bands and 16 bits."""

import numpy as np
import pytest
from helpers import tiny
from mmengine.config import Config
from mmengine.runner import Runner

from mmmaskdistill.datasets import (
    IMAGE_ENDINGS,
    ClassTable,
    find_images,
    measure_channels,
)

tifffile = pytest.importorskip('tifffile')
LOAD = dict(type='mmmaskdistill.LoadImage', channels=4)
BACKBONE = dict(tiny.STUDENT, arch=dict(tiny.ARCH, num_layers=4), in_channels=4)
DOWNSTREAM = dict(
    BACKBONE, final_norm=False, use_rel_pos_bias=True, use_shared_rel_pos_bias=False
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('satellite')
    rng = np.random.default_rng(0)
    for k in range(4):
        image = rng.integers(0, 5000, (80, 100, 4), np.uint16)
        label = rng.integers(0, 3, (80, 100), np.uint16)
        kind = 'ab'[k % 2]
        for folder, array in (
            ('images', image),
            (f'classes/{kind}', image),
            ('labels', label),
        ):
            path = root / folder / f'{k}.tiff'
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(
                path, array, photometric='rgb' if array.ndim == 3 else 'minisblack'
            )
    ClassTable.draft([0, 1, 2]).write(root / 'classes.csv')
    return root


@pytest.fixture(scope='module')
def channels(root):
    return measure_channels(find_images(root / 'images').files)


def train(name, root, dataset, **settings):
    """Train two iterations of a quickstart config, and return the checkpoint."""
    cfg = Config.fromfile(f'configs/quickstart/{name}.py')
    cfg.merge_from_dict(settings)
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset = dataset
    cfg.param_scheduler, cfg.work_dir = [], str(root / name)
    for key in [key for key in cfg if key.startswith(('val_', 'test_'))]:
        cfg.pop(key)
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss')._log_history
    assert len(losses) == 2 and np.isfinite(losses).all()
    return str(root / name / f'{"iter_2" if name == "segment" else "epoch_1"}.pth')


def pretrain(root, channels):
    model = dict(
        tiny.PARTS,
        _delete_=True,
        type='mmmaskdistill.MaskDistill',
        backbone=BACKBONE,
        data_preprocessor=dict(
            type='mmmaskdistill.TwoViewDataPreprocessor',
            mean=channels.mean,
            std=channels.std,
            second_mean=channels.mean[:3],
            second_std=channels.std[:3],
            teacher_bands=[0, 1, 2],
        ),
    )
    pipeline = [
        LOAD,
        dict(type='mmmaskdistill.RandomJitteredCrop', scale=64, saturation=0),
        dict(
            type='mmmaskdistill.BlockMaskGenerator',
            input_size=(4, 4),
            num_masking_patches=7,
            min_num_patches=2,
        ),
        dict(type='PackInputs'),
    ]
    dataset = dict(
        type='mmmaskdistill.ImageFolder',
        data_root=str(root),
        paths='images',
        pipeline=pipeline,
    )
    return train('pretrain', root, dataset, model=model, train_cfg=dict(max_epochs=1))


@pytest.fixture(scope='module')
def pretrained(root, channels):
    return dict(type='Pretrained', checkpoint=pretrain(root, channels))


def test_pretraining_with_an_rgb_teacher(pretrained):
    assert pretrained['checkpoint'].endswith('epoch_1.pth')


def test_classification(root, channels, pretrained):
    dataset = dict(
        type='CustomDataset',
        data_root=str(root / 'classes'),
        extensions=IMAGE_ENDINGS,
        pipeline=[
            LOAD,
            dict(type='RandomResizedCrop', scale=64),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    )
    train(
        'classify',
        root,
        dataset,
        model=dict(
            backbone=dict(
                DOWNSTREAM, _delete_=True, out_type='avg_featmap', init_cfg=pretrained
            ),
            head=dict(in_channels=24, num_classes=2),
        ),
        data_preprocessor=dict(
            mean=channels.mean, std=channels.std, num_classes=2, to_rgb=False
        ),
        train_cfg=dict(max_epochs=1),
    )


def test_segmentation(root, channels, pretrained):
    dataset = dict(
        type='mmmaskdistill.FolderSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        classes='classes.csv',
        pipeline=[
            LOAD,
            dict(type='LoadAnnotations'),
            dict(
                type='RandomResize',
                scale=(128, 96),
                ratio_range=(0.8, 2.0),
                keep_ratio=True,
            ),
            dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    )
    head = dict(channels=8, num_classes=3)
    train(
        'segment',
        root,
        dataset,
        model=dict(
            data_preprocessor=dict(
                size=(64, 64), mean=channels.mean, std=channels.std, bgr_to_rgb=False
            ),
            backbone=dict(
                DOWNSTREAM,
                _delete_=True,
                out_indices=(0, 1, 2, 3),
                init_cfg=pretrained,
            ),
            neck=dict(embed_dim=24),
            decode_head=dict(head, in_channels=[24] * 4),
            auxiliary_head=dict(head, in_channels=24),
        ),
        train_cfg=dict(max_iters=2, val_interval=100),
    )
