# Segmentation with labels of one's own, on one GPU: UperNet over ViT-B/16. The number
# of classes is that of the data.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/schedules/adamw.py',
    'mmseg::_base_/default_runtime.py',
]

# Images that are smaller than the window or have an odd size are padded in tests.
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(drop_path_rate=0.1),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmmaskdistill.FolderSegDataset'),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmmaskdistill.FolderSegDataset'),
)
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True)
                for factor in (0.75, 1.0, 1.25)
            ],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=1000, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1000, end=20000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=2000,
        max_keep_ckpts=1,
        save_best='mIoU',
    ),
    visualization=dict(type='SegVisualizationHook'),
)
