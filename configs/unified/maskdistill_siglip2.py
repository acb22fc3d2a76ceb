_base_ = '_base_/maskdistill.py'

method = dict(name='MaskDistill, SigLIP 2', source='arXiv 2210.10615, 2502.14786')
model = dict(teacher=dict(model_name='vit_base_patch16_siglip_224.v2_webli'))
data_preprocessor = dict(second_mean=[127.5] * 3, second_std=[127.5] * 3)
