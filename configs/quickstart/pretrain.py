_base_ = ['mmpretrain::_base_/default_runtime.py', '_base_/student.py']
custom_imports = dict(imports=['mmmaskdistill'])

model = dict(
    type='mmmaskdistill.MaskDistill',
    data_preprocessor=dict(
        type='mmmaskdistill.TwoViewDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        second_mean=[127.0, 127.0, 127.0],
        second_std=[128.0, 128.0, 128.0],
        to_rgb=True,
    ),
    backbone=_base_.student,
    # The features of stage 3 of EfficientNet-Lite0 have 112 channels and stride 16.
    # The images are not augmented, so the features of each file are computed only
    # once, and other objectives start from the same file of features.
    teacher=dict(
        type='mmmaskdistill.CachedTeacher',
        file=_base_.quickstart_dir + '/features.pth',
        teacher=dict(
            type='mmmaskdistill.TimmTeacher',
            model_name='tf_efficientnet_lite0',
            checkpoint=_base_.quickstart_dir + '/teacher.pth',
            layer=3,
            img_size=128,
        ),
    ),
    normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
    head=dict(type='mmmaskdistill.LinearHead', in_channels=192, out_channels=112),
    loss=dict(type='mmmaskdistill.SmoothL1Loss'),
)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root=_base_.quickstart_dir + '/data',
        data_prefix='pretrain',
        with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='mmmaskdistill.BlockMaskGenerator',
                input_size=(8, 8),
                num_masking_patches=26,
                min_num_patches=4,
            ),
            dict(type='PackInputs'),
        ],
    ),
)

train_cfg = dict(by_epoch=True, max_epochs=10)
# The relative position table decides to which visible patches a hidden patch attends.
# It starts at zero. In the short training here, it needs a hundred times the learning
# rate of the other parameters to learn where the neighbors of a patch are.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05),
    clip_grad=dict(max_norm=3.0),
    constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={
            'cls_token': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(lr_mult=100.0, decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=40, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, begin=40, by_epoch=False),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
)
randomness = dict(seed=0)
