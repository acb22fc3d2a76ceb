_base_ = '_base_/maskdistill.py'

# Not from a paper: MaskDistill's recipe without a mask, with the loss at all patches.
# configs/all_patches has more sizes of the student.
method = dict(
    name='MaskDistill, no mask', source="arXiv 2210.10615; this project's objective"
)
model = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')

train_pipeline = [
    dict(type='mmmaskdistill.NoMaskGenerator', input_size=step.input_size)
    if step.type == 'mmmaskdistill.BlockMaskGenerator'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
