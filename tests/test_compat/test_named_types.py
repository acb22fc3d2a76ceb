"""What a config that is not trusted may name."""

import os

import pytest
import torch
from mmengine.registry import MODELS, TRANSFORMS, Registry

from mmmaskdistill.compat.named_types import only_parts, refuse_files
from mmmaskdistill.errors import CheckpointError


@pytest.mark.parametrize(
    'name',
    ['mmpretrain.LinearClsHead', 'mmseg.FCNHead', 'GELU', 'mmmaskdistill.LinearHead'],
)
def test_registered_classes_are_found(name):
    expected = MODELS.get(name)
    with only_parts('a.pth'):
        assert MODELS.get(name) is expected and isinstance(expected, type)


def test_full_paths_are_those_of_modules_and_transforms():
    with only_parts('a.pth'):
        assert MODELS.get('torch.nn.Linear') is torch.nn.Linear
        crop = TRANSFORMS.get('mmcv.transforms.CenterCrop')
        assert crop.__name__ == 'CenterCrop'
        for name in ('mmengine.runner.Runner', 'torch.load'):
            with pytest.raises(Exception, match=name):
                MODELS.get(name)


@pytest.mark.parametrize(
    'name',
    [
        'os.system',
        'nothing',
        'nothing.Part',
        'mmpretrain.torchvision/Lambda',
        'mmpretrain.Albumentations',
        'mmseg.Albu',
    ],
)
def test_everything_else_is_refused(name):
    registry = TRANSFORMS if 'mm' in name else MODELS
    message = f'config in a.pth has type={name!r}, which is no class'
    with pytest.raises(CheckpointError, match=message), only_parts('a.pth'):
        registry.build(dict(type=name))


def test_mmengine_is_as_before_afterwards():
    get = Registry.get
    with pytest.raises(CheckpointError), only_parts('a.pth'):
        assert Registry.get is not get
        MODELS.build(dict(type='os.getcwd'))
    assert Registry.get is get and MODELS.build(dict(type='os.getcwd')) == os.getcwd()
    with pytest.raises(ZeroDivisionError), only_parts('a.pth'):
        1 / 0  # noqa: B018


def test_files_are_refused_at_any_depth():
    refuse_files(dict(a=[1, ('text', None, dict(b='x.png'))], c='a/b'), 'a.pth')
    for name in ('w.pkl', 'W.YAML', 's3://w', 'http://a/b.npy'):
        with pytest.raises(
            CheckpointError, match=f'names the file {name!r} in its mod'
        ):
            refuse_files(dict(a=[1, (dict(b=name),)]), 'a.pth')
