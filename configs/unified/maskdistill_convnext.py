_base_ = '_base_/maskdistill.py'

# A CNN of timm as the student. Nobody has published this recipe. The features of 2 x 2
# patches of the teacher are averaged, and masks hide 19 of 49 patches, 38.8 %.
method = dict(
    name='MaskDistill, ConvNeXt',
    source='arXiv 2210.10615, 2201.03545; no published recipe',
)
model = dict(
    backbone=dict(
        _delete_=True, type='mmmaskdistill.MaskedTimm', model_name='convnext_base'
    ),
    teacher=dict(resize='bilinear'),
    head=dict(in_channels=1024),
)

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(
        _base_.train_pipeline[2],
        input_size=(7, 7),
        num_masking_patches=19,
        min_num_patches=4,
    ),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
