_base_ = [
    '../_base_/models/maskdistill_clip-l14.py',
    '../_base_/datasets/in1k_masked_224_p14.py',
    '../_base_/schedules/pretrain_300e.py',
]

# Layer scale and the number of masked patches are assumed.
model = dict(
    backbone=dict(arch='huge', patch_size=14, layer_scale_init_value=1e-5),
    head=dict(in_channels=1280),
)

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(accumulative_counts=4)
# mmengine counts the batch of one forward.
auto_scale_lr = dict(base_batch_size=512)
# An epoch has 2502 batches: every second one ends with an update.
default_hooks = dict(checkpoint=dict(interval=2))
