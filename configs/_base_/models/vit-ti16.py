# ViT-Ti/16: what it changes in each model that is written for ViT-B/16. A recipe takes
# its part with `_base_.pop`, so that the other parts do not end up in the recipe.
__width = 192
__arch = dict(arch='tiny')
__pretrained = dict(
    **__arch,
    init_cfg=dict(
        checkpoint='work_dirs/maskdistill_vit-ti16_clip-b16_'
        '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
    ),
)

vit = dict(
    maskdistill=dict(backbone=__arch, head=dict(in_channels=__width)),
    classifier=dict(backbone=__pretrained, head=dict(in_channels=__width)),
    linear_probe=dict(
        backbone=__pretrained,
        neck=dict(input_features=__width),
        head=dict(in_channels=__width),
    ),
    upernet=dict(
        backbone=__pretrained,
        neck=dict(embed_dim=__width),
        decode_head=dict(in_channels=[__width] * 4, channels=__width),
        auxiliary_head=dict(in_channels=__width),
    ),
)
