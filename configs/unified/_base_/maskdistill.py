# MaskDistill's ViT-B/16 and its recipe. The other methods change parts of it.
_base_ = [
    '../../_base_/models/maskdistill_clip-b16.py',
    '../../_base_/datasets/in1k_masked_224.py',
    '../../_base_/schedules/pretrain_300e.py',
]

# For methods that crop and flip alone.
no_jitter = dict(brightness=0.0, contrast=0.0, saturation=0.0)
