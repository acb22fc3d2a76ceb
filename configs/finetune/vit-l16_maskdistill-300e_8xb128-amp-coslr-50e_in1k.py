_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/models/vit-l16.py',
    '../_base_/datasets/in1k_224.py',
    '../_base_/schedules/finetune_50e.py',
]

model = _base_.pop('vit').classifier
model.backbone.drop_path_rate = 0.2

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
