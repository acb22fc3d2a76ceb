# ImageNet-1k: RandAugment m9 n2 mstd0.5, random erasing 0.25; test: short side
# to 256, centre crop.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128, drop_last=True)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
