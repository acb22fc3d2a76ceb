# Pre-training on images of one's own, without a GPU: the quickstart's student of four
# blocks learns from EfficientNet-Lite0, from crops of 128 x 128 pixels.
_base_ = 'pretrain.py'

model = dict(
    backbone=dict(
        arch=dict(embed_dims=192, num_layers=4, num_heads=3, feedforward_channels=768),
        img_size=128,
        layer_scale_init_value=1.0,
    ),
    teacher=dict(
        model_name='tf_efficientnet_lite0',
        layer=3,  # 112 channels, stride 16
        img_size=128,
    ),
    head=dict(in_channels=192, out_channels=112),
)
data_preprocessor = dict(
    second_mean=[127.5, 127.5, 127.5], second_std=[127.5, 127.5, 127.5]
)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], scale=128),
    _base_.mask_8,
    _base_.train_pipeline[3],
]
train_dataloader = dict(
    batch_size=32, num_workers=1, dataset=dict(pipeline=train_pipeline)
)

# As in configs/quickstart: the relative position table starts at zero and needs a
# higher learning rate in a short training.
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(
        custom_keys={
            'relative_position_bias_table': dict(lr_mult=100.0, decay_mult=0.0)
        }
    ),
)
