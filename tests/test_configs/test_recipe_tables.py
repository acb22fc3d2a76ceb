"""The numbers in the recipes' configs, after inheritance, against tables."""

from math import ceil

import pytest
import torch
from mmpretrain.registry import MODELS
from timm.layers import trunc_normal_

IMAGES = 1281167  # ImageNet-1k train
GPUS = 8
WIDTH = dict(tiny=192, small=384, base=768, large=1024, huge=1280)

# fmt: off
PRETRAINING = {
    # student, patch size, layer scale, teacher, teacher's img_size, grid, hidden
    # patches, epochs, second beta, drop path
    'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k':
        ('base', 16, 0.1, 'B/16', 224, 14, 75, 300, 0.98, 0),
    'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-800e_in1k':
        ('base', 16, 0.1, 'B/16', 224, 14, 75, 800, 0.999, 0.1),
    'maskdistill_vit-l16_clip-b16_8xb256-amp-coslr-300e_in1k':
        ('large', 16, 1e-5, 'B/16', 224, 14, 75, 300, 0.98, 0),
    'maskdistill_vit-l16_clip-b16_8xb256-amp-coslr-800e_in1k':
        ('large', 16, 1e-5, 'B/16', 224, 14, 75, 800, 0.999, 0.1),
    'maskdistill_vit-l16_clip-l14_8xb256-amp-coslr-300e_in1k':
        ('large', 16, 1e-5, 'L/14', 196, 14, 75, 300, 0.98, 0),
    'maskdistill_vit-l16_clip-l14_8xb256-amp-coslr-800e_in1k':
        ('large', 16, 1e-5, 'L/14', 196, 14, 75, 800, 0.999, 0.1),
    'maskdistill_vit-h14_clip-l14_8xb64-accum4-amp-coslr-300e_in1k':
        ('huge', 14, 1e-5, 'L/14', 224, 16, 102, 300, 0.98, 0),
    'maskdistill_vit-s16_clip-b16_8xb256-amp-coslr-300e_in1k':
        ('small', 16, 0.1, 'B/16', 224, 14, 75, 300, 0.98, 0),
    'maskdistill_vit-ti16_clip-b16_8xb256-amp-coslr-300e_in1k':
        ('tiny', 16, 0.1, 'B/16', 224, 14, 75, 300, 0.98, 0),
}
# fmt: on
TEACHERS = {
    'B/16': ('vit_base_patch16_clip_quickgelu_224.openai', 768),
    'L/14': ('vit_large_patch14_clip_quickgelu_224.openai', 1024),
}

# fmt: off
FINETUNING = {
    # student, patch size, epochs, warm-up epochs, lr at batch size 1024, layer decay,
    # drop path
    'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k':
        ('base', 16, 100, 20, 5e-4, 0.65, 0.1),
    'vit-b16_maskdistill-800e_8xb128-amp-coslr-100e_in1k':
        ('base', 16, 100, 20, 5e-4, 0.6, 0.2),
    'vit-l16_maskdistill-300e_8xb128-amp-coslr-50e_in1k':
        ('large', 16, 50, 5, 5e-4, 0.8, 0.2),
    'vit-l16_maskdistill-800e_8xb128-amp-coslr-50e_in1k':
        ('large', 16, 50, 5, 2e-4, 0.8, 0.2),
    'vit-l16_maskdistill-clip-b16-300e_8xb128-amp-coslr-50e_in1k':
        ('large', 16, 50, 5, 5e-4, 0.8, 0.2),
    'vit-l16_maskdistill-clip-b16-800e_8xb128-amp-coslr-50e_in1k':
        ('large', 16, 50, 5, 2e-4, 0.8, 0.2),
    'vit-h14_maskdistill-300e_8xb64-accum2-amp-coslr-30e_in1k':
        ('huge', 14, 30, 5, 2e-4, 0.85, 0.3),
    'vit-s16_maskdistill-300e_8xb128-amp-coslr-100e_in1k':
        ('small', 16, 100, 20, 5e-4, 0.65, 0.1),
    'vit-ti16_maskdistill-300e_8xb128-amp-coslr-100e_in1k':
        ('tiny', 16, 100, 20, 5e-4, 0.65, 0.1),
}

LINEAR_PROBES = {
    # student, patch size, frozen blocks
    'vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k':
        ('base', 16, 12),
    'vit-b16_maskdistill-800e_8xb2048-linear-amp-coslr-90e_in1k':
        ('base', 16, 12),
    'vit-l16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k':
        ('large', 16, 24),
    'vit-l16_maskdistill-800e_8xb2048-linear-amp-coslr-90e_in1k':
        ('large', 16, 24),
    'vit-l16_maskdistill-clip-b16-300e_8xb2048-linear-amp-coslr-90e_in1k':
        ('large', 16, 24),
    'vit-l16_maskdistill-clip-b16-800e_8xb2048-linear-amp-coslr-90e_in1k':
        ('large', 16, 24),
    'vit-h14_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k':
        ('huge', 14, 32),
    'vit-s16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k':
        ('small', 16, 12),
    'vit-ti16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k':
        ('tiny', 16, 12),
}

SEGMENTATION = {
    # student, patch size, lr at batch size 16, layer decay, drop path, out_indices
    'vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('base', 16, 5e-5, 0.75, 0.15, (3, 5, 7, 11)),
    'vit-b16_maskdistill-800e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('base', 16, 5e-5, 0.75, 0.15, (3, 5, 7, 11)),
    'vit-l16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('large', 16, 4e-5, 0.9, 0.2, (7, 11, 15, 23)),
    'vit-l16_maskdistill-800e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('large', 16, 4e-5, 0.9, 0.2, (7, 11, 15, 23)),
    'vit-l16_maskdistill-clip-b16-300e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('large', 16, 4e-5, 0.9, 0.2, (7, 11, 15, 23)),
    'vit-l16_maskdistill-clip-b16-800e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('large', 16, 4e-5, 0.9, 0.2, (7, 11, 15, 23)),
    'vit-h14_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('huge', 14, 4e-5, 0.9, 0.3, (9, 15, 21, 31)),
    'vit-s16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('small', 16, 5e-5, 0.75, 0.15, (3, 5, 7, 11)),
    'vit-ti16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512':
        ('tiny', 16, 5e-5, 0.75, 0.15, (3, 5, 7, 11)),
}
# fmt: on


def test_every_recipe_is_in_a_table(names):
    assert set(names) == {*PRETRAINING, *FINETUNING, *LINEAR_PROBES, *SEGMENTATION}


def test_recipe_has_only_the_model_of_its_task(name, recipe):
    """configs/_base_/models/vit-*.py have those of all tasks, of which one is taken."""
    assert 'vit' not in recipe(name)


def check_batch(cfg, size):
    """Check the global batch size.

    mmengine's automatic scaling of the learning rate counts only the batch of one
    forward pass, without gradient accumulation.
    """
    batch = cfg.train_dataloader.batch_size * GPUS
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    assert batch * counts == size
    assert cfg.auto_scale_lr == dict(base_batch_size=batch)


def check_adamw(cfg, lr, second_beta=0.999):
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer == dict(
        type='AdamW',
        lr=lr,
        betas=(0.9, second_beta),
        eps=1e-8,
        weight_decay=0.05,
        fused=True,
    )
    assert (wrapper.type, wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')
    assert wrapper.paramwise_cfg.flat_decay_mult == 0
    assert wrapper.paramwise_cfg.custom_keys == dict(
        cls_token=dict(decay_mult=0), pos_embed=dict(decay_mult=0)
    )


def steps(pipeline):
    return {step.type.split('.')[-1]: step for step in pipeline}


@pytest.mark.parametrize('name', PRETRAINING)
def test_pretraining_recipe_has_the_numbers_of_the_table(name, recipe):
    (
        arch,
        patch,
        layer_scale,
        teacher,
        pixels,
        grid,
        hidden,
        epochs,
        beta,
        drop_path,
    ) = PRETRAINING[name]
    cfg = recipe(name)
    backbone = cfg.model.backbone
    assert backbone == dict(
        type='mmmaskdistill.MaskDistillViT',
        arch=arch,
        img_size=224,
        patch_size=patch,
        layer_scale_init_value=layer_scale,
        drop_path_rate=drop_path,
    )
    model, channels = TEACHERS[teacher]
    assert cfg.model.teacher.model_name == model
    assert cfg.model.teacher.features == 'block'
    assert cfg.model.teacher.get('img_size', 224) == pixels
    assert cfg.model.head.in_channels == WIDTH[arch]
    assert cfg.model.head.out_channels == channels
    assert cfg.model.loss == dict(type='mmmaskdistill.SmoothL1Loss', beta=1)

    check_batch(cfg, 2048)
    check_adamw(cfg, 1.5e-3, beta)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=3)
    assert 'layer_decay_rate' not in cfg.optim_wrapper.paramwise_cfg
    assert cfg.train_cfg.max_epochs == epochs
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.end) == ('LinearLR', 10)
    assert warmup.start_factor * 1.5e-3 == pytest.approx(1e-6)
    assert (cosine.type, cosine.begin) == ('CosineAnnealingLR', 10)
    assert cosine.eta_min == 1e-5
    assert warmup.convert_to_iter_based and cosine.convert_to_iter_based

    loader = cfg.train_dataloader
    assert loader.drop_last and loader.dataset.split == 'train'
    crop, mask = loader.dataset.pipeline[1:-1]
    assert crop.pop('second_scale', 224) == pixels
    assert crop == dict(
        type='mmmaskdistill.RandomJitteredCrop',
        scale=224,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        flip_prob=0.5,
        crop_ratio_range=(0.2, 1),
    )
    assert mask == dict(
        type='mmmaskdistill.BlockMaskGenerator',
        input_size=(grid, grid),
        num_masking_patches=hidden,
        min_num_patches=16,
        min_aspect=0.3,
    )
    views = cfg.data_preprocessor
    assert views.mean == [123.675, 116.28, 103.53]
    assert views.std == [58.395, 57.12, 57.375]
    assert views.second_mean == [122.771, 116.746, 104.094]
    assert views.second_std == [68.501, 66.632, 70.323]


@pytest.mark.parametrize('name', FINETUNING)
def test_finetuning_recipe_has_the_numbers_of_the_table(name, recipe):
    arch, patch, epochs, warmup_epochs, lr, decay, drop_path = FINETUNING[name]
    cfg = recipe(name)
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.patch_size) == (arch, patch)
    assert backbone.drop_path_rate == drop_path
    assert backbone.out_type == 'avg_featmap' and not backbone.final_norm
    assert backbone.use_rel_pos_bias and not backbone.use_shared_rel_pos_bias
    assert cfg.model.head.in_channels == WIDTH[arch]
    assert cfg.model.head.loss == dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
    )
    assert cfg.model.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1),
    ]

    check_batch(cfg, 1024)
    check_adamw(cfg, lr)
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == decay
    assert cfg.train_cfg.max_epochs == epochs
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == cosine.begin == warmup_epochs
    assert warmup.start_factor * lr == pytest.approx(1e-6)
    assert cosine.eta_min_ratio * lr == pytest.approx(1e-6)
    assert warmup.convert_to_iter_based and cosine.convert_to_iter_based

    assert cfg.train_dataloader.drop_last
    train = steps(cfg.train_dataloader.dataset.pipeline)
    assert list(train) == [
        'LoadImageFromFile',
        'RandomResizedCrop',
        'RandomFlip',
        'RandAugment',
        'RandomErasing',
        'PackInputs',
    ]
    crop = train['RandomResizedCrop']
    assert (crop.scale, crop.backend, crop.interpolation) == (224, 'pillow', 'bicubic')
    augment = train['RandAugment']
    assert (
        augment.policies,
        augment.num_policies,
        augment.magnitude_level,
        augment.total_level,
        augment.magnitude_std,
    ) == ('timm_increasing', 2, 9, 10, 0.5)
    assert augment.hparams == dict(pad_val=[104, 116, 124], interpolation='bicubic')
    erasing = train['RandomErasing']
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    assert (erasing.min_area_ratio, erasing.max_area_ratio) == (0.02, 1 / 3)
    assert erasing.fill_color == [103.53, 116.28, 123.675]
    assert erasing.fill_std == [57.375, 57.12, 58.395]
    check_test_pipeline(cfg)


def test_classifier_starts_as_in_beit_v2(recipe):
    """The head's weights are those of timm's trunc_normal_, times 0.001."""
    cfg = recipe('vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k')
    head = MODELS.build(cfg.model.head)
    torch.manual_seed(0)
    head.init_weights()
    torch.manual_seed(0)
    expected = trunc_normal_(torch.empty_like(head.fc.weight), std=0.02) * 0.001
    torch.testing.assert_close(head.fc.weight, expected, rtol=1e-4, atol=0.0)
    assert head.fc.weight.std().item() == pytest.approx(2e-5, rel=1e-2)
    assert not head.fc.bias.any()


def check_test_pipeline(cfg):
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        test = steps(loader.dataset.pipeline)
        assert test['ResizeEdge'] == dict(
            type='ResizeEdge',
            scale=256,
            edge='short',
            backend='pillow',
            interpolation='bicubic',
        )
        assert test['CenterCrop'].crop_size == 224


@pytest.mark.parametrize('name', LINEAR_PROBES)
def test_linear_probe_recipe_has_the_numbers_of_the_table(name, recipe):
    arch, patch, blocks = LINEAR_PROBES[name]
    cfg = recipe(name)
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.patch_size) == (arch, patch)
    assert backbone.frozen_stages == blocks
    assert cfg.model.neck == dict(type='ClsBatchNormNeck', input_features=WIDTH[arch])
    assert cfg.model.head.in_channels == WIDTH[arch]
    assert cfg.model.head.loss == dict(type='CrossEntropyLoss')
    check_batch(cfg, 16384)
    assert cfg.optim_wrapper.optimizer == dict(
        type='LARS', lr=6.4, momentum=0.9, weight_decay=0
    )
    assert cfg.train_cfg.max_epochs == 90
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == cosine.begin == 10 and cosine.eta_min == 0
    train = steps(cfg.train_dataloader.dataset.pipeline)
    assert list(train) == [
        'LoadImageFromFile',
        'RandomResizedCrop',
        'RandomFlip',
        'PackInputs',
    ]
    check_test_pipeline(cfg)


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation_recipe_has_the_numbers_of_the_table(name, recipe):
    arch, patch, lr, decay, drop_path, taps = SEGMENTATION[name]
    cfg = recipe(name)
    width = WIDTH[arch]
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.patch_size) == (arch, patch)
    assert backbone.drop_path_rate == drop_path
    assert backbone.img_size == (512, 512) and backbone.out_indices == taps
    assert backbone.use_rel_pos_bias and not backbone.use_shared_rel_pos_bias
    assert not backbone.final_norm
    neck, head = cfg.model.neck, cfg.model.decode_head
    assert (neck.embed_dim, neck.rescales) == (width, [4, 2, 1, 0.5])
    assert (head.type, head.channels) == ('mmmaskdistill.UPerHead', width)
    assert head.in_channels == [width] * 4
    auxiliary = cfg.model.auxiliary_head
    assert (
        auxiliary.type,
        auxiliary.in_index,
        auxiliary.in_channels,
        auxiliary.channels,
        auxiliary.loss_decode.loss_weight,
    ) == ('FCNHead', 2, width, 256, 0.4)
    assert cfg.model.test_cfg == dict(
        mode='slide', crop_size=(512, 512), stride=(341, 341)
    )

    check_batch(cfg, 16)
    check_adamw(cfg, lr)
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == decay
    assert cfg.train_cfg.max_iters == 160000
    schedules = {s.type: s for s in cfg.param_scheduler}
    assert (schedules['LinearLR'].start_factor, schedules['LinearLR'].end) == (
        1e-6,
        1501,
    )
    assert (
        schedules['PolyLR'].power,
        schedules['PolyLR'].eta_min,
        schedules['PolyLR'].end,
    ) == (1, 0, 160001)

    train = steps(cfg.train_dataloader.dataset.pipeline)
    assert list(train) == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomResize',
        'RandomCrop',
        'RandomFlip',
        'PhotoMetricDistortion',
        'PackSegInputs',
    ]
    assert train['LoadAnnotations'].reduce_zero_label
    resize = train['RandomResize']
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2))
    crop = train['RandomCrop']
    assert (crop.crop_size, crop.cat_max_ratio) == ((512, 512), 0.75)
    test = steps(cfg.test_dataloader.dataset.pipeline)
    assert test['Resize'].scale == (2048, 512) and test['Resize'].keep_ratio
    assert test['LoadAnnotations'].reduce_zero_label


def test_checkpoints_are_saved_between_optimizer_steps(name, recipe):
    """No checkpoint is saved while gradients are being accumulated.

    A checkpoint does not contain accumulated gradients, so they would be lost.
    """
    cfg = recipe(name)
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    interval = cfg.default_hooks.checkpoint.interval
    if cfg.train_cfg.get('by_epoch'):
        assert cfg.train_dataloader.drop_last
        images = ceil(IMAGES / GPUS)
        batches = images // cfg.train_dataloader.batch_size
        assert interval * batches % counts == 0
        assert cfg.train_cfg.max_epochs * batches % counts == 0
    else:
        assert interval % counts == 0
