_base_ = [
    'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k.py',
    '../_base_/models/vit-s16.py',
]

# It is an assumption that the recipe of ViT-B suits ViT-S.
model = _base_.pop('vit').maskdistill
