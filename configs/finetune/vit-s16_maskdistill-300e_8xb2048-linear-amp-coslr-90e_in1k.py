_base_ = [
    'vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k.py',
    '../_base_/models/vit-s16.py',
]

model = _base_.pop('vit').linear_probe
