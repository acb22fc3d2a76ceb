_base_ = 'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k.py'

# It is an assumption that the recipe of ViT-B suits ViT-Ti.
model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=192))
