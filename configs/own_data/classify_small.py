# Classification of images of one's own, without a GPU: the quickstart's student, for
# images of 128 x 128 pixels.
_base_ = 'classify.py'

model = dict(
    backbone=dict(
        arch=dict(embed_dims=192, num_layers=4, num_heads=3, feedforward_channels=768),
        img_size=128,
        layer_scale_init_value=1.0,
    ),
    head=dict(in_channels=192),
)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], scale=128),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=144),
    dict(_base_.test_pipeline[2], crop_size=128),
    _base_.test_pipeline[3],
]
train_dataloader = dict(
    batch_size=17, num_workers=1, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The best setting of the search in configs/quickstart/README.md
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay_rate=0.5))
