# ViT-B/16: mean of the patch tokens, LayerNorm, linear classifier. The shared
# relative position table of pre-training becomes one table per block.
custom_imports = dict(imports=['mmmaskdistill'])

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmmaskdistill.MaskDistillViT',
        arch='base',
        img_size=224,
        patch_size=16,
        out_type='avg_featmap',
        final_norm=False,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
        layer_scale_init_value=0.1,
        init_cfg=dict(type='Pretrained'),
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        # As in BEiT v2's code: timm's trunc_normal_ (std 0.02, cut at -2 and 2),
        # then scaled by 0.001.
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5, a=-2e-3, b=2e-3),
    ),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    ),
)
