_base_ = [
    '../_base_/models/maskdistill_clip-l14.py',
    '../_base_/models/vit-l16.py',
    '../_base_/datasets/in1k_masked_224_teacher-196.py',
    '../_base_/schedules/pretrain_800e.py',
]

model = _base_.pop('vit').maskdistill
model.backbone.drop_path_rate = 0.1
model.teacher = dict(img_size=196)
