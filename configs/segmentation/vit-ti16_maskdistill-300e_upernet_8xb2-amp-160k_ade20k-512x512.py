_base_ = 'vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512.py'

# Assumed: ViT-B's recipe; the head is as wide as the ViT, as ViT-B's.
model = dict(
    backbone=dict(
        arch='tiny',
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-ti16_clip-b16_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    neck=dict(embed_dim=192),
    decode_head=dict(in_channels=[192] * 4, channels=192),
    auxiliary_head=dict(in_channels=192),
)
