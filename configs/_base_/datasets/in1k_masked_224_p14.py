# Patches of 14 pixels: masks hide 102 of 16 x 16 patches, 39.8 %.
_base_ = 'in1k_masked_224.py'

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], input_size=(16, 16), num_masking_patches=102),
    _base_.train_pipeline[3],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
