"""Each method of configs/unified runs and is listed in the README's table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.small_configs import (
    Start,
    WithoutDraws,
    kind,
    shrink_method,
    shrink_student,
    teachers_of,
)
from mmengine.config import Config
from mmengine.runner import Runner

from mmmaskdistill.registry import MODELS, TRANSFORMS

UNIFIED = Path(__file__).parents[2] / 'configs' / 'unified'
METHODS = sorted(path.stem for path in UNIFIED.glob('*.py'))


def read(name):
    return Config.fromfile(UNIFIED / f'{name}.py', format_python_code=False)


@pytest.mark.parametrize('name', METHODS)
def test_method_trains_for_two_iterations(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    cfg = read(name)
    cfg.update(work_dir=str(tmp_path), experiment_name=f'unified_{name}')
    shrink_method(cfg)
    runner = Runner.from_cfg(cfg)
    start = Start()
    runner.register_hook(start)
    runner.train()
    assert runner.iter == 2
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    unchanged = {
        k
        for k, v in runner.model.named_parameters()
        if v.requires_grad and torch.equal(v, start.weights[k])
    }
    if name == 'maskdistill_convnext':
        # Behind a layer scale of 1e-6, gradients are less than AdamW's epsilon. These
        # weights are 1, which the first learning rates, 1e-6, hardly change.
        unchanged -= {key for key in unchanged if key.endswith('.norm.weight')}
    # Without hidden patches, the mask token is not used.
    hides = 'NoMask' not in cfg.train_pipeline[-2].type
    assert unchanged <= (set() if hides else {'backbone.mask_token'})


ABSOLUTE = dict(
    use_abs_pos_emb=True, use_rel_pos_bias=False, layer_scale_init_value=0.0
)
# Their students are fine-tuned as themselves, not by the recipes for ViTs.
NO_VITS = {'maskdistill_convnext', 'simmim_swin'}


@pytest.mark.parametrize('name', sorted({*METHODS} - NO_VITS))
def test_students_initialize_the_downstream_recipes(name, tmp_path):
    """The recipes' backbones need only the options that the README names."""
    backbone = read(name).model.backbone
    shrink_student(backbone)
    student = MODELS.build(backbone)
    student.init_weights()
    path = str(tmp_path / 'epoch_300.pth')
    state = student.state_dict()
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), path)
    for recipe in (
        'finetune/vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k',
        'segmentation/vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512',
    ):
        after = Config.fromfile(
            UNIFIED.parent / f'{recipe}.py', format_python_code=False
        ).model.backbone
        after.update(
            arch=backbone.arch,
            init_cfg=dict(type='Pretrained', checkpoint=path),
            **(ABSOLUTE if name in ('eva', 'mae', 'maskfeat', 'milan') else {}),
        )
        if 'out_indices' in after:
            after.out_indices = (0, 1, 2, 3)
        started = MODELS.build(after)
        started.init_weights()  # This refuses weights that do not fit.
        for key, value in started.blocks.state_dict().items():
            if 'relative_position' not in key:
                assert torch.equal(value, state[f'blocks.{key}'])


MMPRETRAIN_CONFIGS = {
    'beit': 'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k',
    'beitv2': 'beitv2/beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k',
    'mae': 'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k',
    'maskfeat': 'maskfeat/maskfeat_vit-base-p16_8xb256-amp-coslr-300e_in1k',
    'milan': 'milan/milan_vit-base-p16_16xb256-amp-coslr-400e_in1k',
    'simmim': 'simmim/simmim_swin-base-w6_8xb256-amp-coslr-100e_in1k-192px',
    'simmim_swin': 'simmim/simmim_swin-base-w6_8xb256-amp-coslr-100e_in1k-192px',
}


def test_feature_distillation_crops_bilinearly():
    """The method's public code crops bilinearly as well."""
    assert read('feature_distillation').train_pipeline[1].interpolation == 'bilinear'


@pytest.mark.parametrize('name', MMPRETRAIN_CONFIGS)
def test_crops_and_number_of_hidden_patches_equal_mmpretrains(name, tmp_path):
    path = tmp_path / 'reference.py'
    path.write_text(f"_base_ = 'mmpretrain::{MMPRETRAIN_CONFIGS[name]}.py'\n")
    reference = Config.fromfile(path, format_python_code=False)
    steps = {step.type: step for step in reference.train_pipeline}
    crop = next(v for k, v in steps.items() if 'ResizedCrop' in k)
    area = crop.get('crop_ratio_range') or crop.get('scale')
    jitter = steps.get('ColorJitter', {})
    cfg = read(name)
    for part in ('brightness', 'contrast', 'saturation'):
        assert cfg.train_pipeline[1][part] == jitter.get(part, 0)
    assert cfg.train_pipeline[1].crop_ratio_range == area
    interpolation = TRANSFORMS.build(cfg.train_pipeline[1]).interpolation
    assert interpolation == crop.get('interpolation', 'bilinear')
    mask = cfg.model.get('masking') or cfg.train_pipeline[2]
    if 'BEiTMaskGenerator' in steps:
        expected = steps['BEiTMaskGenerator'].num_masking_patches
    elif 'SimMIMMaskGenerator' in steps:
        # The mask consists of squares of 32 x 32 pixels, which are 2 x 2 patches of a
        # ViT; the number of hidden squares is rounded up.
        side = mask.get('unit', 1)
        squares = (mask.input_size[0] // side) ** 2
        ratio = steps['SimMIMMaskGenerator'].mask_ratio
        expected = side**2 * int(np.ceil(ratio * squares))
    else:
        expected = 14**2 * reference.model.backbone.mask_ratio
    assert mask.num_masking_patches == expected


def test_table_of_methods_is_up_to_date(request):
    root = request.config.rootpath
    subprocess.run(
        [sys.executable, 'tools/analysis_tools/list_methods.py', '--check'],
        cwd=root,
        check=True,
    )
    readme = (root / 'configs/unified/README.md').read_text()
    assert all(f']({name}.py)' in readme for name in METHODS)


def test_second_view_is_normalized_as_the_teacher_expects():
    """The second view has the mean and std of the published timm teacher."""
    for name in METHODS:
        cfg = read(name)
        normalization = cfg.data_preprocessor
        first = dict(mean=normalization.second_mean, std=normalization.second_std)
        views = cfg.model.teacher.get('views', [first])
        assert views[0] == first
        for teacher, view in zip(teachers_of(cfg.model), views, strict=True):
            if kind(teacher) != 'TimmTeacher':
                continue
            published = timm.get_pretrained_cfg(teacher.model_name)
            for value, expected in (
                (view['mean'], published.mean),
                (view['std'], published.std),
            ):
                np.testing.assert_allclose(value, np.multiply(expected, 255), atol=2e-3)


def test_student_of_simmim_is_mmpretrains_swin(tmp_path):
    path = tmp_path / 'reference.py'
    path.write_text(f"_base_ = 'mmpretrain::{MMPRETRAIN_CONFIGS['simmim_swin']}.py'\n")
    reference = Config.fromfile(path, format_python_code=False)
    cfg = read('simmim_swin')
    backbone = dict(cfg.model.backbone, type='SimMIMSwinTransformer')
    assert backbone.pop('drop_path_rate') == 0.0
    assert backbone == reference.model.backbone
    assert cfg.model.head.in_channels == reference.model.neck.in_channels
    assert cfg.train_pipeline[1].scale == 192
    stride = reference.model.neck.encoder_stride
    assert cfg.model.teacher.patch_size == stride
    assert cfg.train_pipeline[2].input_size == (192 // stride, 192 // stride)
    assert cfg.model.head.out_channels == 3 * stride**2


def test_full_models_of_new_students_fit_their_teachers():
    """The sizes that the other tests reduce: widths, patch grids and channels."""
    for name in ('simmim_swin', 'maskdistill_convnext', 'maskdistill_clip_dinov2'):
        model = read(name).model
        for teacher in teachers_of(model):
            if kind(teacher) == 'TimmTeacher':
                teacher.pretrained = 'random'
        with WithoutDraws():
            MODELS.build(model)
