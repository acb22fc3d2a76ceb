_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='MAE', source='arXiv 2111.06377')
model = dict(
    backbone=dict(type='mmmaskdistill.VisibleViT', layer_scale_init_value=0.0),
    teacher=dict(_delete_=True, type='mmmaskdistill.PixelTeacher'),
    normalizer=dict(type='mmmaskdistill.PatchPixelNormalizer'),
    head=dict(type='mmmaskdistill.DecoderHead'),
    loss=dict(_delete_=True, type='mmmaskdistill.MSELoss'),
)

train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], **_base_.no_jitter),
    dict(
        type='mmmaskdistill.UniformMaskGenerator',
        input_size=(14, 14),
        num_masking_patches=147,
    ),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
