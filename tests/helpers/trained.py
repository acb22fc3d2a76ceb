"""Checkpoints as mmengine's runner writes them, of tiny models with random weights."""

import torch
from helpers import tiny
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmmaskdistill.models.checkpoints import export, read_weights

CLASSES = ('sky', 'tree', 'road', 'car')
PALETTE = [[10, 20, 230], [20, 200, 30], [128, 128, 128], [250, 0, 10]]
BACKBONE = dict(tiny.STUDENT, final_norm=False)
NORMALIZATION = dict(mean=[124.0, 116.0, 104.0], std=[58.0, 57.0, 57.0])
LOAD = dict(type='LoadImageFromFile')
# No file that a config names is there, since only the checkpoint travels.
ELSEWHERE = dict(type='Pretrained', checkpoint='/elsewhere/student.pth')


def segmentation(classes=4, channels=3, load=LOAD):
    """The config of a segmentor."""
    pipeline = [
        load,
        dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ]
    return Config(
        dict(
            custom_imports=dict(imports=['mmmaskdistill']),
            default_scope='mmseg',
            model=dict(
                type='mmmaskdistill.EncoderDecoder',
                data_preprocessor=dict(
                    type='SegDataPreProcessor',
                    mean=(3 * NORMALIZATION['mean'])[:channels],
                    std=(3 * NORMALIZATION['std'])[:channels],
                    bgr_to_rgb=channels == 3,
                    size=(64, 64),
                ),
                backbone=dict(BACKBONE, in_channels=channels, init_cfg=ELSEWHERE),
                decode_head=dict(
                    type='FCNHead',
                    in_channels=24,
                    channels=8,
                    num_convs=1,
                    num_classes=classes,
                    norm_cfg=dict(type='SyncBN'),
                ),
                test_cfg=dict(mode='whole'),
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='BaseSegDataset', data_root='/elsewhere', pipeline=pipeline
                )
            ),
            test_pipeline=pipeline,
            tta_model=dict(type='SegTTAModel'),
            tta_pipeline=[
                dict(type='LoadImageFromFile'),
                dict(
                    type='TestTimeAug',
                    transforms=[
                        [
                            dict(type='Resize', scale_factor=factor, keep_ratio=True)
                            for factor in (1.0, 1.5)
                        ],
                        [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
                        [dict(type='LoadAnnotations')],
                        [dict(type='PackSegInputs')],
                    ],
                ),
            ],
            visualizer=dict(type='SegLocalVisualizer', name='a'),
        )
    )


def classification(classes=4):
    """The config of a classifier."""
    return Config(
        dict(
            default_scope='mmpretrain',
            data_preprocessor=dict(NORMALIZATION, to_rgb=True, num_classes=classes),
            model=dict(
                type='ImageClassifier',
                backbone=dict(BACKBONE, out_type='avg_featmap', init_cfg=ELSEWHERE),
                head=dict(type='LinearClsHead', in_channels=24, num_classes=classes),
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='CustomDataset',
                    data_root='/elsewhere',
                    pipeline=[
                        LOAD,
                        dict(type='ResizeEdge', scale=70, edge='short'),
                        dict(type='CenterCrop', crop_size=64),
                        dict(type='PackInputs'),
                    ],
                )
            ),
        )
    )


def pretraining(**parts):
    """The config of a pre-training model, whose teacher cannot be built."""
    teacher = dict(tiny.TEACHER, checkpoint='https://elsewhere.org/teacher.pth')
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                {**tiny.PARTS, 'teacher': teacher, **parts},
                type='mmmaskdistill.MaskDistill',
                data_preprocessor=dict(
                    NORMALIZATION,
                    type='mmmaskdistill.TwoViewDataPreprocessor',
                    second_mean=[127.0] * 3,
                    second_std=[128.0] * 3,
                    to_rgb=True,
                ),
            ),
            train_dataloader=dict(dataset=dict(type='CustomDataset', pipeline=[LOAD])),
        )
    )


def write(config, path, meta=None):
    """Write a checkpoint of a config with random weights, and return its path."""
    settings = Config(config.to_dict()).model
    if 'teacher' in settings:
        settings.teacher = dict(tiny.TEACHER)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if meta is None and config.default_scope == 'mmseg':
        meta = dict(classes=CLASSES, palette=PALETTE, label_map=None)
    elif meta is None:
        meta = dict(classes=CLASSES) if 'head' in settings else {}
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(cfg=config.pretty_text, dataset_meta=meta, epoch=1, iter=2),
            message_hub=dict(),
            optimizer=dict(),
        ),
        path,
    )
    return path


def publish(checkpoint, out, backbone=False):
    """Write a checkpoint without its training history, and return the path."""
    weights = read_weights(str(checkpoint))
    return export.publish(weights, str(checkpoint), str(out), backbone)[0]
