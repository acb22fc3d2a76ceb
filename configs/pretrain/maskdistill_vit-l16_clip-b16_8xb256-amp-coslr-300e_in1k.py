_base_ = [
    'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k.py',
    '../_base_/models/vit-l16.py',
]

model = _base_.pop('vit').maskdistill
