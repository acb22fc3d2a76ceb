_base_ = [
    '../_base_/models/maskdistill_clip-b16.py',
    '../_base_/datasets/in1k_masked_224.py',
    '../_base_/schedules/pretrain_800e.py',
]

model = dict(backbone=dict(drop_path_rate=0.1))
