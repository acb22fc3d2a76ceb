_base_ = ['mmpretrain::_base_/default_runtime.py', '_base_/student.py']
custom_imports = dict(imports=['mmmaskdistill'])

# The backbone is trained from scratch unless a checkpoint is given on the command
# line:
#   --cfg-options model.backbone.init_cfg.type=Pretrained \
#       model.backbone.init_cfg.checkpoint=...
num_classes = 17
data_preprocessor = dict(
    num_classes=num_classes,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        **_base_.student,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
        final_norm=False,
        drop_path_rate=0.1,
        out_type='avg_featmap',
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=192,
        num_classes=num_classes,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

dataset = dict(
    type='CustomDataset',
    data_root=_base_.quickstart_dir + '/data/cls/train',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomFlip', prob=0.5, direction='vertical'),
        dict(type='PackInputs'),
    ],
)
train_dataloader = dict(
    batch_size=17,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dataset,
)
val_dataloader = dict(
    batch_size=34,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root=_base_.quickstart_dir + '/data/cls/val',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=16, val_interval=100)
val_cfg = dict()
test_cfg = dict()
# The best setting of a grid search, both from scratch and from a pre-trained student:
# see configs/quickstart/README.md.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, begin=0, end=3, convert_to_iter_based=True
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        begin=3,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=4),
    checkpoint=dict(type='CheckpointHook', interval=100, max_keep_ckpts=1),
)
randomness = dict(seed=0)
