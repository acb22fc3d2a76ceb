_base_ = '../pretrain/maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k.py'

# The features of all patches count in the loss, hidden or visible.
model = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')

# The mask hides nothing at the start of the run and the paper's share at its end. Half
# of the batches have no mask, so that the student goes on to see whole images.
train_pipeline = [
    dict(step, num_masking_patches=dict(start=0, end=75), unmasked_batches=0.5)
    if step.type == 'mmmaskdistill.BlockMaskGenerator'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
