_base_ = 'vit-l16_maskdistill-300e_8xb128-amp-coslr-50e_in1k.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-l16_clip-b16_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        )
    )
)
