# Linear probing of a frozen ViT-B/16: mean of the patch tokens, BatchNorm without
# affine parameters, linear classifier. As in pre-training, all blocks of the ViT
# share one relative position table.
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
        layer_scale_init_value=0.1,
        frozen_stages=12,
        init_cfg=dict(type='Pretrained'),
    ),
    neck=dict(type='ClsBatchNormNeck', input_features=768),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        num_classes=1000,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01),
    ),
)
