# The teacher sees the crop at 196 pixels, which are 14 x 14 patches of 14 pixels.
_base_ = 'in1k_masked_224.py'

train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], second_scale=196),
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
