import importlib.util

import mmengine.utils
import mmpretrain
import mmseg
import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

import mmmaskdistill
from mmmaskdistill.compat import package_paths


@pytest.fixture
def original():
    """mmengine's own functions, before they were replaced."""
    spec = importlib.util.spec_from_file_location(
        'original_package_utils', package_paths.package_utils.__file__
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    importlib.util.find_spec('pkg_resources') is not None,
    reason='setuptools before 82 has the pkg_resources that mmengine imports',
)
def test_unpatched_mmengine_does_not_find_mmseg(original):
    with pytest.raises(ImportError):
        original.get_installed_path('mmsegmentation')


@pytest.mark.parametrize(
    'base, dataset',
    [
        ('mmseg::_base_/datasets/ade20k.py', 'ADE20KDataset'),
        ('mmpretrain::_base_/datasets/imagenet_bs32.py', 'ImageNet'),
    ],
)
def test_config_inherits_from_a_toolkit(tmp_path, base, dataset):
    file = tmp_path / 'config.py'
    file.write_text(f'_base_ = [{base!r}]\n')
    assert Config.fromfile(file).dataset_type == dataset


@pytest.mark.parametrize(
    'name, package',
    [
        ('mmsegmentation', mmseg),
        ('mmseg', mmseg),
        ('mmpretrain', mmpretrain),
        ('mmengine', mmengine),
    ],
)
def test_installed_packages_and_distributions_are_found(name, package):
    assert mmengine.utils.get_installed_path(name) == package.__path__[0]
    assert mmengine.utils.is_installed(name)


def test_distribution_with_another_package_name_counts_as_installed():
    assert mmengine.utils.is_installed('opencv-python')


def test_missing_packages_are_reported():
    assert not mmengine.utils.is_installed('mmnothing')
    with pytest.raises(ImportError, match='mmnothing'):
        mmengine.utils.get_installed_path('mmnothing')


@pytest.mark.parametrize(
    'name, scope, built',
    [
        (
            'segmentation/vit-ti16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512.py',
            'mmseg',
            'mmseg.models',
        ),
        (
            'finetune/vit-ti16_maskdistill-300e_8xb128-amp-coslr-100e_in1k.py',
            'mmpretrain',
            'mmpretrain.models',
        ),
    ],
)
def test_config_inherits_from_this_package(tmp_path, name, scope, built):
    """Names without a scope are looked up in the toolkit, as in the config itself."""
    file = tmp_path / 'config.py'
    file.write_text(
        f"_base_ = 'mmmaskdistill::{name}'\n"
        'model = dict(backbone=dict(init_cfg=None))\n'
    )
    cfg = Config.fromfile(file)
    itself = Config.fromfile(f'{mmmaskdistill.__path__[0]}/.mim/configs/{name}')
    itself.model.backbone.init_cfg = None
    assert cfg.to_dict() == itself.to_dict()
    assert cfg.default_scope == scope
    with DefaultScope.overwrite_default_scope(scope):
        head = MODELS.build(cfg.model.get('auxiliary_head') or cfg.model.head)
    assert type(head).__module__.startswith(built)


def test_hub_gives_configs_of_this_package():
    cfg = get_config('mmmaskdistill::unified/mae.py')
    assert cfg.model.type == 'mmmaskdistill.MaskDistill'
    base = get_config('mmmaskdistill::_base_/models/upernet.py')
    assert base.model.decode_head.type == 'mmmaskdistill.UPerHead'
