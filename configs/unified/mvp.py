_base_ = '_base_/maskdistill.py'

# That the cosine compares them, and N with it, is assumed.
method = dict(name='MVP', source='arXiv 2203.05175; N, L assumed')
model = dict(
    teacher=dict(features='proj'),
    normalizer=dict(type='mmmaskdistill.L2Normalizer'),
    head=dict(out_channels=512),
    loss=dict(_delete_=True, type='mmpretrain.CosineSimilarityLoss'),
)
