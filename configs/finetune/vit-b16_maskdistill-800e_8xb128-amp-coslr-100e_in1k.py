_base_ = 'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k.py'

model = dict(
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-b16_clip-b16_'
            '8xb256-amp-coslr-800e_in1k/epoch_800.pth'
        ),
    )
)

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.6))
