_base_ = '../pretrain/maskdistill_vit-h14_clip-l14_8xb64-accum4-amp-coslr-300e_in1k.py'

# Nothing is hidden, and the features of all patches count in the loss.
model = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')
train_pipeline = [
    dict(type='mmmaskdistill.NoMaskGenerator', input_size=step.input_size)
    if step.type == 'mmmaskdistill.BlockMaskGenerator'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
