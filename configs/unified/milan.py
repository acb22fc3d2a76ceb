_base_ = '_base_/maskdistill.py'

# 2 - 2 cos is the squared distance of unit vectors.
method = dict(name='MILAN', source='arXiv 2208.06049')
model = dict(
    backbone=dict(type='mmmaskdistill.VisibleViT', layer_scale_init_value=0.0),
    teacher=dict(features='proj', class_token=True),
    normalizer=dict(type='mmmaskdistill.L2Normalizer'),
    head=dict(
        type='mmmaskdistill.PromptDecoderHead', out_channels=512, class_token=True
    ),
    loss=dict(
        _delete_=True,
        type='mmpretrain.CosineSimilarityLoss',
        shift_factor=2.0,
        scale_factor=2.0,
    ),
    predict='all',
    masking=dict(type='mmmaskdistill.AttentionMask', num_masking_patches=147),
)

train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], **_base_.no_jitter),
    dict(type='mmmaskdistill.GumbelNoise', input_size=(14, 14)),
    dict(_base_.train_pipeline[-1], algorithm_keys=['noise']),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
