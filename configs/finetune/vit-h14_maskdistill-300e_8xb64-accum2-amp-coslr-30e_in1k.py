_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/models/vit-h14.py',
    '../_base_/datasets/in1k_224.py',
    '../_base_/schedules/finetune_50e_lr-2e-4.py',
]

# Epochs, learning rate, layer decay, drop path and layer scale are assumptions: see
# the sources in configs/finetune/README.md.
model = _base_.pop('vit').classifier
model.backbone.drop_path_rate = 0.3

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(accumulative_counts=2, paramwise_cfg=dict(layer_decay_rate=0.85))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=30),
]
train_cfg = dict(max_epochs=30)
# The batch size of one forward pass: mmengine does not count accumulated batches.
auto_scale_lr = dict(base_batch_size=512)
