_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='MaskDistill, DINOv2', source='arXiv 2210.10615, 2304.07193')
model = dict(teacher=dict(model_name='vit_base_patch14_dinov2.lvd142m', img_size=196))

# Its patches have 14 pixels, the student's 16.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], second_scale=196),
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
