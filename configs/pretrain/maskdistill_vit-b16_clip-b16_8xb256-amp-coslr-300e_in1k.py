_base_ = [
    '../_base_/models/maskdistill_clip-b16.py',
    '../_base_/datasets/in1k_masked_224.py',
    '../_base_/schedules/pretrain_300e.py',
]
