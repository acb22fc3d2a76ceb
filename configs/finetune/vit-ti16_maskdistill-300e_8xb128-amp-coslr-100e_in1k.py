_base_ = 'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k.py'

# It is an assumption that the recipe of ViT-B suits ViT-Ti.
model = dict(
    backbone=dict(
        arch='tiny',
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-ti16_clip-b16_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    head=dict(in_channels=192),
)
