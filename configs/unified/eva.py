_base_ = '_base_/maskdistill.py'

# EVA's own teacher is CLIP ViT-L/14 and its student a giant.
method = dict(name='EVA', source='arXiv 2211.07636')
model = dict(
    backbone=dict(
        use_abs_pos_emb=True, use_shared_rel_pos_bias=False, layer_scale_init_value=0.0
    ),
    teacher=dict(features='proj'),
    normalizer=dict(type='mmmaskdistill.L2Normalizer'),
    head=dict(out_channels=512),
    loss=dict(_delete_=True, type='mmpretrain.CosineSimilarityLoss'),
)

train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], **_base_.no_jitter),
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
