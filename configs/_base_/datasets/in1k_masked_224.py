# ImageNet-1k train without labels: student and teacher see the same crop, and blocks of
# patches are hidden from the student, 75 of 14 x 14 (38.3 %).
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
    dict(
        type='mmmaskdistill.BlockMaskGenerator',
        input_size=(14, 14),
        num_masking_patches=75,
        min_num_patches=16,
        min_aspect=0.3,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmmaskdistill.ImageNet',
        data_root='data/imagenet',
        split='train',
        storage='folder',  # or packed: shards, lmdb
        max_unreadable=0.001,
        pipeline=train_pipeline,
    ),
)
