_base_ = ['adamw.py', 'mmpretrain::_base_/default_runtime.py']

lr = 1.5e-3
optim_wrapper = dict(
    optimizer=dict(lr=lr, betas=(0.9, 0.98)), clip_grad=dict(max_norm=3.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=10, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        begin=10,
        end=300,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=300)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
)
auto_scale_lr = dict(base_batch_size=2048)
