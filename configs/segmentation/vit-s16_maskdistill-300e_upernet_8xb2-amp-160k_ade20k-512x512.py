_base_ = [
    'vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512.py',
    '../_base_/models/vit-s16.py',
]

# Assumed: ViT-B's recipe; the head is as wide as the ViT, as ViT-B's.
model = _base_.pop('vit').upernet
