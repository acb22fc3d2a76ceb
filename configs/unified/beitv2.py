_base_ = '_base_/maskdistill.py'

method = dict(name='BEiT v2', source='arXiv 2208.06366')
model = dict(
    backbone=dict(type='mmmaskdistill.PatchAggregationViT'),
    teacher=dict(_delete_=True, type='mmmaskdistill.VQKDTeacher'),
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    head=dict(
        _delete_=True,
        type='mmmaskdistill.CodebookHead',
        in_channels=768,
        vocab_size=8192,
    ),
    loss=dict(_delete_=True, type='mmmaskdistill.CrossEntropyLoss'),
)
data_preprocessor = dict(second_mean=[127.5] * 3, second_std=[127.5] * 3)
