# Segmentation with labels of one's own, without a GPU: the quickstart's student and
# narrow heads, for windows of 128 x 128 pixels.
_base_ = 'segment.py'

width = 192
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(
            embed_dims=width, num_layers=4, num_heads=3, feedforward_channels=768
        ),
        img_size=(128, 128),
        out_indices=(0, 1, 2, 3),
        layer_scale_init_value=1.0,
    ),
    neck=dict(embed_dim=width),
    decode_head=dict(in_channels=[width] * 4, channels=32),
    auxiliary_head=dict(in_channels=width, channels=32),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
train_dataloader = dict(num_workers=1)
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader

# The best setting of the search in configs/quickstart/README.md
optim_wrapper = dict(optimizer=dict(lr=8e-3), paramwise_cfg=dict(layer_decay_rate=0.2))
