_base_ = [
    '../_base_/models/linear_probe.py',
    '../_base_/datasets/in1k_linear_224.py',
    '../_base_/schedules/linear_90e.py',
]

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-b16_clip-b16_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        )
    )
)
