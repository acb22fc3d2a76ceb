_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/models/vit-l16.py',
    '../_base_/datasets/in1k_224.py',
    '../_base_/schedules/finetune_50e_lr-2e-4.py',
]

model = _base_.pop('vit').classifier
model.backbone.drop_path_rate = 0.2
model.backbone.init_cfg.checkpoint = (
    'work_dirs/maskdistill_vit-l16_clip-l14_8xb256-amp-coslr-800e_in1k/epoch_800.pth'
)

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
