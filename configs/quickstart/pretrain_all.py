_base_ = ['pretrain.py']

# The loss counts the features of all patches, and no patch is hidden: see
# docs/objectives.md.
model = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmmaskdistill.NoMaskGenerator', input_size=(8, 8)),
            dict(type='PackInputs'),
        ]
    )
)
