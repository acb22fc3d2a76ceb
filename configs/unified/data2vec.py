_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='data2vec', source='arXiv 2202.03555')
model = dict(
    backbone=dict(drop_path_rate=0.25, layer_scale_init_value=1e-4),
    teacher=dict(
        _delete_=True,
        type='mmmaskdistill.MomentumTeacher',
        momentum=0.9998,
        num_layers=6,
    ),
    loss=dict(beta=2.0),
)
custom_hooks = [dict(type='mmmaskdistill.MomentumTeacherHook')]

# Crops and the number of patches as in its code, which drops 5 % of the
# attention besides.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], crop_ratio_range=(0.08, 1.0)),
    dict(_base_.train_pipeline[2], num_masking_patches=120),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
