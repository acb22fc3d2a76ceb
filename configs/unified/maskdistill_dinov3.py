_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='MaskDistill, DINOv3', source='arXiv 2210.10615, 2508.10104')
model = dict(teacher=dict(model_name='vit_base_patch16_dinov3.lvd1689m'))
