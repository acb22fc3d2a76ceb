_base_ = 'finetune_50e.py'

lr = 2e-4
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6 / lr),
    dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / lr),
]
