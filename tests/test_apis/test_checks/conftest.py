"""Small data sets and configs, right ones in which a test breaks one thing."""

import copy

import pytest
from helpers.image_files import labels, picture, save
from mmengine.config import Config

import mmmaskdistill  # noqa: F401  (registers what the configs name)
from mmmaskdistill.apis.checks import check


@pytest.fixture
def pairs(tmp_path):
    """Write two images and labels for training and for validation, of three classes."""

    def pairs(label=labels, suffix='.jpg', count=2):
        for split in ('train', 'val'):
            for k in range(count):
                save(picture(), tmp_path / f'img/{split}/{k}{suffix}')
                save(label(), tmp_path / f'ann/{split}/{k}.png')
        return tmp_path

    return pairs


@pytest.fixture
def segment(tmp_path):
    """A segmentation config for the data of ``pairs``."""

    def dataset(split, *steps):
        return dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path=f'img/{split}', seg_map_path=f'ann/{split}'),
            metainfo=dict(classes=['a', 'b', 'c']),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                *steps,
                dict(type='PackSegInputs'),
            ],
        )

    crops = (
        dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0)),
        dict(type='RandomCrop', crop_size=(32, 32)),
    )
    head = dict(num_classes=3, in_channels=8, channels=8, norm_cfg=dict(type='BN'))
    loss = dict(type='CrossEntropyLoss')
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(
                    type='SegDataPreProcessor',
                    mean=[124, 116, 104],
                    std=[58, 57, 57],
                    size=(32, 32),
                ),
                backbone=dict(type='mmmaskdistill.MaskDistillViT', arch='tiny'),
                decode_head=dict(type='UPerHead', loss_decode=loss, **head),
                auxiliary_head=dict(type='FCNHead', loss_decode=loss, **head),
            ),
            train_dataloader=dict(
                batch_size=2,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dataset('train', *crops),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            val_dataloader=dict(
                batch_size=1,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dataset('val'),
            ),
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type='IoUMetric'),
        )
    )


@pytest.fixture
def classes(tmp_path):
    """Write two images of each class for training and for validation."""

    def classes(names=('cat', 'dog', 'owl')):
        for split in ('train', 'val'):
            for name in names:
                for k in range(2):
                    save(picture(), tmp_path / f'{split}/{name}/{k}.jpg')
        return tmp_path

    return classes


@pytest.fixture
def classify(tmp_path):
    """A classification config with mixup for the data of ``classes``."""

    def loader(split):
        return dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='CustomDataset',
                data_root=str(tmp_path),
                data_prefix=split,
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=(32, 32)),
                    dict(type='PackInputs'),
                ],
            ),
        )

    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                data_preprocessor=dict(
                    num_classes=3, mean=[124, 116, 104], std=[58, 57, 57]
                ),
                backbone=dict(type='mmmaskdistill.MaskDistillViT', arch='tiny'),
                head=dict(
                    type='LinearClsHead',
                    in_channels=192,
                    num_classes=3,
                    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
                ),
                train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)),
            ),
            train_dataloader=loader('train'),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            val_dataloader=loader('val'),
            val_cfg=dict(),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
        )
    )


@pytest.fixture
def found(tmp_path):
    """Check a config with some settings changed; return the errors and warnings.

    In the texts, the folder of the test is replaced by ``DATA``.
    """

    def found(cfg, options=None, **kwargs):
        cfg = copy.deepcopy(cfg)
        cfg.merge_from_dict(options or {})
        findings = check(cfg, **kwargs)
        texts = [*findings.errors, *findings.warnings]
        assert not any('\n' in text for text in texts)
        clean = [text.replace(str(tmp_path), 'DATA') for text in texts]
        count = len(findings.errors)
        return clean[:count], clean[count:]

    return found
