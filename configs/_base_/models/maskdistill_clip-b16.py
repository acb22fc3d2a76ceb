# MaskDistill with ViT-B/16 as the student and CLIP ViT-B/16 as the teacher.
custom_imports = dict(imports=['mmmaskdistill'])

model = dict(
    type='mmmaskdistill.MaskDistill',
    backbone=dict(
        type='mmmaskdistill.MaskDistillViT',
        arch='base',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.0,
        layer_scale_init_value=0.1,
    ),
    teacher=dict(
        type='mmmaskdistill.TimmTeacher',
        model_name='vit_base_patch16_clip_quickgelu_224.openai',
        features='block',
    ),
    normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
    head=dict(type='mmmaskdistill.LinearHead', in_channels=768, out_channels=768),
    loss=dict(type='mmmaskdistill.SmoothL1Loss', beta=1.0),
)
