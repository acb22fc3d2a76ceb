_base_ = 'vit-l16_maskdistill-800e_8xb128-amp-coslr-50e_in1k.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-l16_clip-b16_'
            '8xb256-amp-coslr-800e_in1k/epoch_800.pth'
        )
    )
)
