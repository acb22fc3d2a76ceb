_base_ = '_base_/maskdistill.py'

# Not from a paper: the loss stands at all patches, and the share of hidden patches
# rises from none to MaskDistill's in half of the batches; the others have no mask.
# configs/all_patches has more sizes of the student.
method = dict(
    name='MaskDistill, rising mask', source="arXiv 2210.10615; this project's objective"
)
model = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')

train_pipeline = [
    dict(step, num_masking_patches=dict(start=0, end=75), unmasked_batches=0.5)
    if step.type == 'mmmaskdistill.BlockMaskGenerator'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
