_base_ = [
    '../_base_/models/maskdistill_clip-l14.py',
    '../_base_/datasets/in1k_masked_224_teacher-196.py',
    '../_base_/schedules/pretrain_800e.py',
]

model = dict(
    backbone=dict(arch='large', layer_scale_init_value=1e-5, drop_path_rate=0.1),
    teacher=dict(img_size=196),
    head=dict(in_channels=1024),
)
