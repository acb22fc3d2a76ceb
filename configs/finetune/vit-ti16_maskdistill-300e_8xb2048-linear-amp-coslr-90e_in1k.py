_base_ = 'vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k.py'

model = dict(
    backbone=dict(
        arch='tiny',
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-ti16_clip-b16_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    neck=dict(input_features=192),
    head=dict(in_channels=192),
)
