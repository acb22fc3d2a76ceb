_base_ = 'vit-l16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-l16_clip-b16_'
            '8xb256-amp-coslr-800e_in1k/epoch_800.pth'
        )
    )
)
