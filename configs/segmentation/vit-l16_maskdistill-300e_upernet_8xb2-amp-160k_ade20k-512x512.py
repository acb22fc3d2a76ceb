_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/ade20k_160k.py',
]

model = dict(
    backbone=dict(
        arch='large',
        layer_scale_init_value=1e-5,
        out_indices=(7, 11, 15, 23),
        drop_path_rate=0.2,
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-l16_clip-l14_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)

optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
