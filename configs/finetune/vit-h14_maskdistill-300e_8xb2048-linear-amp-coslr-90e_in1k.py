_base_ = 'vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k.py'

model = dict(
    backbone=dict(
        arch='huge',
        patch_size=14,
        layer_scale_init_value=1e-5,
        frozen_stages=32,
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-h14_clip-l14_'
            '8xb64-accum4-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    neck=dict(input_features=1280),
    head=dict(in_channels=1280),
)
