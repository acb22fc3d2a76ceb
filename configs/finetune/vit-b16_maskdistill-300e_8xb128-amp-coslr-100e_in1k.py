_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/in1k_224.py',
    '../_base_/schedules/finetune_100e.py',
]

model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        init_cfg=dict(
            checkpoint='work_dirs/maskdistill_vit-b16_clip-b16_'
            '8xb256-amp-coslr-300e_in1k/epoch_300.pth'
        ),
    )
)

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
