_base_ = 'pretrain_300e.py'

optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.999)))
train_cfg = dict(max_epochs=800)
