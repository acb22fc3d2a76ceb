_base_ = 'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-800e_in1k.py'

model = dict(
    backbone=dict(arch='large', layer_scale_init_value=1e-5),
    head=dict(in_channels=1024),
)
