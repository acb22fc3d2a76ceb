_base_ = '_base_/maskdistill.py'

# Not from a paper: MaskDistill's recipe with the loss at all patches and with a share
# of hidden patches that rises from 0 to MaskDistill's during the run.
# configs/all_patches has more sizes of the student.
method = dict(
    name='MaskDistill, rising mask', source="arXiv 2210.10615; this project's objective"
)
model = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')

train_pipeline = [
    dict(step, num_masking_patches=dict(start=0, end=75))
    if step.type == 'mmmaskdistill.BlockMaskGenerator'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
