_base_ = [
    'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k.py',
    '../_base_/models/vit-s16.py',
]

# It is an assumption that the recipe of ViT-B suits ViT-S.
model = _base_.pop('vit').classifier
