_base_ = 'pretrain_300e.py'

optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.999)))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=800),
]
train_cfg = dict(max_epochs=800)
