_base_ = '../all_patches/no-mask_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k.py'

method = dict(
    name='MaskDistill, no mask', source="arXiv 2210.10615; this project's objective"
)
