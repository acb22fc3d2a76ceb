_base_ = '_base_/maskdistill.py'

method = dict(name='BEiT', source='arXiv 2106.08254')
model = dict(
    backbone=dict(drop_path_rate=0.1),
    teacher=dict(_delete_=True, type='mmmaskdistill.DALLETeacher'),
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    head=dict(
        _delete_=True,
        type='mmmaskdistill.CodebookHead',
        in_channels=768,
        vocab_size=8192,
    ),
    loss=dict(_delete_=True, type='mmmaskdistill.CrossEntropyLoss'),
)

# Crops as in BEiT's code. Pixels of 0.1 to 0.9. The teacher's picture is
# resized bicubically, where BEiT's code takes Lanczos.
data_preprocessor = dict(second_mean=[-31.875] * 3, second_std=[318.75] * 3)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], second_scale=112, crop_ratio_range=(0.08, 1.0)),
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
