# ImageNet-1k: crop and flip alone.
_base_ = 'in1k_224.py'

train_pipeline = [*_base_.train_pipeline[:3], _base_.train_pipeline[-1]]
train_dataloader = dict(
    batch_size=2048, num_workers=8, dataset=dict(pipeline=train_pipeline)
)
