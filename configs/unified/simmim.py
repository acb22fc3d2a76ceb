_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='SimMIM', source='arXiv 2111.09886')
model = dict(
    backbone=dict(drop_path_rate=0.1),
    teacher=dict(_delete_=True, type='mmmaskdistill.PixelTeacher'),
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    loss=dict(_delete_=True, type='mmmaskdistill.L1Loss'),
)

# 30 of 49 squares of 32 pixels.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(
        _base_.train_pipeline[1],
        crop_ratio_range=(0.67, 1.0),
        interpolation='bilinear',
        **_base_.no_jitter,
    ),
    dict(
        type='mmmaskdistill.UniformMaskGenerator',
        input_size=(14, 14),
        num_masking_patches=120,
        unit=2,
    ),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
