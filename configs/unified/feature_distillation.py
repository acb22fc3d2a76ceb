_base_ = '_base_/maskdistill.py'

# Its whitening is a LayerNorm without affine. Drop path is assumed.
method = dict(name='feature distillation', source='arXiv 2205.14141')
model = dict(
    backbone=dict(type='mmmaskdistill.AllTokensViT', drop_path_rate=0.1),
    loss=dict(beta=2.),
    predict='all')

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='mmmaskdistill.NoMaskGenerator', input_size=(14, 14)),
    _base_.train_pipeline[-1]
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
