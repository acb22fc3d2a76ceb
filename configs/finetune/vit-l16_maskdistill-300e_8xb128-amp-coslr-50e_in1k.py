_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/in1k_224.py',
    '../_base_/schedules/finetune_50e.py',
]

model = dict(
    backbone=dict(
        arch='large',
        layer_scale_init_value=1e-5,
        drop_path_rate=0.2,
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-l16_clip-l14_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    ),
    head=dict(in_channels=1024),
)

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
