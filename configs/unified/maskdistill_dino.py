_base_ = '_base_/teacher_sees_students_view.py'

method = dict(name='MaskDistill, DINO', source='arXiv 2210.10615, 2104.14294')
model = dict(teacher=dict(model_name='vit_base_patch16_224.dino'))
