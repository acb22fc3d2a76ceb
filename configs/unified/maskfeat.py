_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='MaskFeat', source='arXiv 2112.09133')
model = dict(
    backbone=dict(
        use_abs_pos_emb=True, use_shared_rel_pos_bias=False, layer_scale_init_value=0.0
    ),
    teacher=dict(_delete_=True, type='mmmaskdistill.HOGTeacher'),
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    head=dict(out_channels=108),
    loss=dict(_delete_=True, type='mmmaskdistill.MSELoss'),
)

train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], crop_ratio_range=(0.5, 1.0), **_base_.no_jitter),
    dict(_base_.train_pipeline[2], num_masking_patches=78, min_num_patches=15),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
