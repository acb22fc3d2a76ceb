_base_ = [
    '../_base_/models/maskdistill_clip-l14.py',
    '../_base_/models/vit-h14.py',
    '../_base_/datasets/in1k_masked_224_p14.py',
    '../_base_/schedules/pretrain_300e.py',
]

# The layer scale and the number of hidden patches are assumptions: see the sources in
# configs/pretrain/README.md.
model = _base_.pop('vit').maskdistill

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(accumulative_counts=4)
# The batch size of one forward pass: mmengine does not count accumulated batches.
auto_scale_lr = dict(base_batch_size=512)
# An epoch has 2502 batches, which is not a multiple of 4. Only every second epoch
# ends with an update, and a checkpoint does not contain a gradient that is still
# being accumulated.
default_hooks = dict(checkpoint=dict(interval=2))
