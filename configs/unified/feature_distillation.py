_base_ = '_base_/maskdistill.py'

# As in its code of CLIP ViT-B/16: the features after the final norm, the class
# token's, too; whitening is a LayerNorm without affine.
method = dict(name='feature distillation', source='arXiv 2205.14141')
model = dict(
    backbone=dict(
        type='mmmaskdistill.AllTokensViT', drop_path_rate=0.2, class_token=True
    ),
    teacher=dict(features='norm', class_token=True),
    loss=dict(beta=2.0),
    predict='all',
)

train_pipeline = [
    _base_.train_pipeline[0],
    dict(
        _base_.train_pipeline[1],
        crop_ratio_range=(0.08, 1.0),
        interpolation='bilinear',
        **_base_.no_jitter,
    ),
    dict(type='mmmaskdistill.NoMaskGenerator', input_size=(14, 14)),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
