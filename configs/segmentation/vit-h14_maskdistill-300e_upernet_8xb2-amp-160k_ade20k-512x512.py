_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/ade20k_160k.py',
]

# Assumed: all that is given here. 512 pixels are padded to 37 x 37 patches of
# 14, so that the strides are 3.5, 7, 14 and 28.
model = dict(
    backbone=dict(
        arch='huge',
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_indices=(9, 15, 21, 31),
        drop_path_rate=0.3,
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-h14_clip-l14_'
            '8xb64-accum4-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    neck=dict(embed_dim=1280),
    decode_head=dict(in_channels=[1280] * 4, channels=1280),
    auxiliary_head=dict(in_channels=1280),
)

optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
