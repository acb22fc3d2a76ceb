# ViT-H/14: what it changes in each model that is written for ViT-B/16. A recipe takes
# its part with `_base_.pop`, so that the other parts do not end up in the recipe.
__width = 1280
__arch = dict(arch='huge', patch_size=14, layer_scale_init_value=1e-5)
__pretrained = dict(
    **__arch,
    init_cfg=dict(
        checkpoint='work_dirs/maskdistill_vit-h14_clip-l14_'
        '8xb64-accum4-amp-coslr-300e_in1k/epoch_300.pth'
    ),
)

vit = dict(
    maskdistill=dict(backbone=__arch, head=dict(in_channels=__width)),
    classifier=dict(backbone=__pretrained, head=dict(in_channels=__width)),
    linear_probe=dict(
        backbone=dict(**__pretrained, frozen_stages=32),
        neck=dict(input_features=__width),
        head=dict(in_channels=__width),
    ),
    upernet=dict(
        backbone=dict(**__pretrained, out_indices=(9, 15, 21, 31)),
        neck=dict(embed_dim=__width),
        decode_head=dict(in_channels=[__width] * 4, channels=__width),
        auxiliary_head=dict(in_channels=__width),
    ),
)
