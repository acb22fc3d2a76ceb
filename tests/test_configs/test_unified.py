"""Each method of configs/unified runs and is listed in the README's table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.small_configs import ARCH, Start, shrink_method
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
    # Without hidden patches, the mask token is not used.
    hides = 'NoMask' not in cfg.train_pipeline[-2].type
    assert unchanged <= (set() if hides else {'backbone.mask_token'})


ABSOLUTE = dict(
    use_abs_pos_emb=True, use_rel_pos_bias=False, layer_scale_init_value=0.0
)


@pytest.mark.parametrize('name', METHODS)
def test_students_initialize_the_downstream_recipes(name, tmp_path):
    """The recipes' backbones need only the options that the README names."""
    backbone = read(name).model.backbone
    backbone.arch = ARCH
    if backbone.type.endswith('PatchAggregationViT'):
        backbone.early_layers = 2
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
            arch=ARCH,
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
        # The mask consists of 7 x 7 squares of 2 x 2 patches; the number of hidden
        # squares is rounded up.
        ratio = steps['SimMIMMaskGenerator'].mask_ratio
        expected = 4 * int(np.ceil(ratio * 7**2))
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
        if 'model_name' not in cfg.model.teacher:
            continue
        published = timm.get_pretrained_cfg(cfg.model.teacher.model_name)
        view = cfg.data_preprocessor
        for value, expected in (
            (view.second_mean, published.mean),
            (view.second_std, published.std),
        ):
            np.testing.assert_allclose(value, np.multiply(expected, 255), atol=2e-3)
