_base_ = 'vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-b16_clip-b16_'
            '8xb256-amp-coslr-800e_in1k/epoch_800.pth'
        )
    )
)
