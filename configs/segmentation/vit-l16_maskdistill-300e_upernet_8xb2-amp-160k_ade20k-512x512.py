_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/models/vit-l16.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/ade20k_160k.py',
]

model = _base_.pop('vit').upernet
model.backbone.drop_path_rate = 0.2

optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
