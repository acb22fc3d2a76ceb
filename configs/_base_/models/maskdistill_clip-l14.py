# MaskDistill with CLIP ViT-L/14 as the teacher.
_base_ = 'maskdistill_clip-b16.py'

model = dict(
    teacher=dict(model_name='vit_large_patch14_clip_quickgelu_224.openai'),
    head=dict(out_channels=1024),
)
