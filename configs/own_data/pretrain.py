# Pre-training on images of one's own, on one GPU: ViT-B/16 learns from CLIP ViT-B/16.
_base_ = [
    '../_base_/models/maskdistill_clip-b16.py',
    '../_base_/schedules/adamw.py',
    'mmpretrain::_base_/default_runtime.py',
    '_base_/objective.py',
]

model = _base_.pop('objective')
data_preprocessor = dict(
    type='mmmaskdistill.TwoViewDataPreprocessor',
    # the student's: ImageNet's
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    # the teacher's: CLIP's
    second_mean=[122.771, 116.746, 104.094],
    second_std=[68.501, 66.632, 70.323],
    to_rgb=True,
)
train_pipeline = [
    dict(type='mmmaskdistill.StrictLoadImageFromFile'),
    dict(
        type='mmmaskdistill.RandomJitteredCrop',
        scale=224,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        flip_prob=0.5,
        crop_ratio_range=(0.2, 1.0),
    ),
    _base_.mask_14,
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmmaskdistill.ImageFolder', paths='data/images', pipeline=train_pipeline
    ),
)

# The recipe's learning rate of 1.5e-3 is meant for a batch of 2048. For AdamW, it is
# scaled with the square root of the batch size.
optim_wrapper = dict(
    optimizer=dict(lr=3.75e-4, betas=(0.9, 0.98)), clip_grad=dict(max_norm=3.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        begin=5,
        end=100,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=100)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
)
