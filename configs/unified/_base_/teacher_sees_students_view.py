# One mean and std for both.
_base_ = 'maskdistill.py'

data_preprocessor = dict(
    second_mean=[123.675, 116.28, 103.53], second_std=[58.395, 57.12, 57.375]
)
