_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/models/vit-h14.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/ade20k_160k.py',
]

# All numbers here and those of UperNet in vit-h14.py are assumptions. 512 pixels are
# padded to 37 x 37 patches of 14, so that the strides are 3.5, 7, 14 and 28.
model = _base_.pop('vit').upernet
model.backbone.drop_path_rate = 0.3

optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
