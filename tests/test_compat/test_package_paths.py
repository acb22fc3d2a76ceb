import importlib.util

import mmengine.utils
import mmpretrain
import mmseg
import pytest
from mmengine.config import Config

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
    reason='an older setuptools has what mmengine asks for',
)
def test_mmengine_alone_does_not_find_mmseg(original):
    with pytest.raises(Exception):
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
def test_paths(name, package):
    assert mmengine.utils.get_installed_path(name) == package.__path__[0]
    assert mmengine.utils.is_installed(name)


def test_distribution_whose_package_has_another_name():
    assert mmengine.utils.is_installed('opencv-python')


def test_not_installed():
    assert not mmengine.utils.is_installed('mmnothing')
    with pytest.raises(ImportError, match='mmnothing'):
        mmengine.utils.get_installed_path('mmnothing')
