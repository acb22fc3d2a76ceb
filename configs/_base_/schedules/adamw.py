# AdamW for all recipes except linear probing. Weight decay is not applied to
# one-dimensional parameters, which include all biases, to the class token and to
# the position embedding.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(
        type='AdamW', betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True
    ),
    constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={
            'cls_token': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
        },
    ),
)
