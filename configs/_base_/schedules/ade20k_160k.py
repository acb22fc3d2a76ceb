_base_ = ['adamw.py', 'mmseg::_base_/default_runtime.py']

# As in mmcv 1.x, the polynomial decay begins with the first iteration, and the factor
# of the warm-up is multiplied with it. mmengine's schedulers reach their last value
# at iteration end - 1.
param_scheduler = [
    dict(type='PolyLR', power=1.0, eta_min=0.0, end=160001, by_epoch=False),
    dict(type='LinearLR', start_factor=1e-6, end=1501, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=8000, max_keep_ckpts=2
    ),
    visualization=dict(type='SegVisualizationHook'),
)
auto_scale_lr = dict(base_batch_size=16)
