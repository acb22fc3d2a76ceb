_base_ = 'finetune_100e.py'

param_scheduler = [
    dict(_base_.param_scheduler[0], end=5),
    dict(_base_.param_scheduler[1], begin=5, end=50),
]
train_cfg = dict(max_epochs=50)
