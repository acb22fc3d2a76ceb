_base_ = 'simmim.py'

# SimMIM's own student and image size.
method = dict(name='SimMIM, Swin', source='arXiv 2111.09886')
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmaskdistill.MaskedSwin',
        arch='base',
        img_size=192,
        drop_path_rate=0.0,
        stage_cfgs=dict(block_cfgs=dict(window_size=6)),
    ),
    teacher=dict(patch_size=32, img_size=192),
    head=dict(in_channels=1024, out_channels=3072),
)

# 22 of 36 squares of 32 pixels.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], scale=192),
    dict(
        type='mmmaskdistill.UniformMaskGenerator',
        input_size=(6, 6),
        num_masking_patches=22,
    ),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
