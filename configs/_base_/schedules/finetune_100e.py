_base_ = ['adamw.py', 'mmpretrain::_base_/default_runtime.py']

lr = 5e-4
optim_wrapper = dict(optimizer=dict(lr=lr))
# If the run gets another length, the schedule is stretched to it.
# The start of the warm-up and the minimum are given as factors of the learning rate,
# so that they scale with the learning rate of each layer.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-6 / lr,
        begin=20,
        end=100,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=100)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto'
    )
)
auto_scale_lr = dict(base_batch_size=1024)
