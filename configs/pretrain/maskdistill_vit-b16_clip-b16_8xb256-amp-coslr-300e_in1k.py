_base_ = [
    '../_base_/datasets/in1k_masked_224.py',
    'mmpretrain::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmmaskdistill'])

model = dict(
    type='mmmaskdistill.MaskDistill',
    backbone=dict(
        type='mmmaskdistill.MaskDistillViT',
        arch='base',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.,
        layer_scale_init_value=0.1),
    teacher=dict(
        type='mmmaskdistill.TimmTeacher',
        model_name='vit_base_patch16_clip_quickgelu_224.openai',
        features='block'),
    normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
    head=dict(
        type='mmmaskdistill.LinearHead', in_channels=768, out_channels=768),
    loss=dict(type='mmmaskdistill.SmoothL1Loss', beta=1.))

lr = 1.5e-3
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.,
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.98), weight_decay=0.05),
    clip_grad=dict(max_norm=3.),
    constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        flat_decay_mult=0.,
        custom_keys={
            'cls_token': dict(decay_mult=0.),
            'pos_embed': dict(decay_mult=0.)
        }))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / lr,
        begin=0,
        end=10,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        begin=10,
        end=300,
        convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=300)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=2048)
