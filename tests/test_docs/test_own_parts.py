"""The examples of docs/own_parts.md do what the page says."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample

from mmmaskdistill.apis.checks import check_masks
from mmmaskdistill.apis.configs import load_config
from mmmaskdistill.apis.pretraining import build_pretraining

PAGE = Path(__file__).parents[2] / 'docs' / 'own_parts.md'
BLOCKS = {
    name: code
    for code, name in re.findall(
        r'^```python\n(# (\w+\.py)\n.*?)^```$', PAGE.read_text(), re.M | re.S
    )
}
CHECKS = [name.removesuffix('.py') for name in BLOCKS if name.startswith('check_')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder on Python's path with the files of the page.

    The registry refuses a second class of the same name, so the files are imported
    once for all tests.
    """
    folder = tmp_path_factory.mktemp('own')
    for name, code in BLOCKS.items():
        (folder / name).write_text(code)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_every_block_is_a_file():
    assert PAGE.read_text().count('```python\n') == len(BLOCKS) == 8
    assert len(CHECKS) == 4


@pytest.mark.parametrize('name', CHECKS)
def test_examples_pass_their_own_tests(folder, name):
    module = importlib.import_module(name)
    tests = [value for key, value in vars(module).items() if key.startswith('test_')]
    assert tests
    for test in tests:
        test()


def test_method_of_own_parts_learns(folder):
    config = load_config(str(folder / 'my_method.py'))
    init_default_scope(config.default_scope)
    model = build_pretraining(config)
    check_masks(config, model)
    assert type(model.backbone).__name__ == 'ConvStudent'
    assert type(model.teacher).__name__ == 'MeanColorTeacher'
    model.init_weights()
    mask = torch.arange(196) < 75
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    data = dict(inputs=images, data_samples=[DataSample(mask=mask)] * 2)
    data = model.data_preprocessor(data, training=True)
    model(**data, mode='loss')['loss'].backward()
    assert all(p.grad.any() for p in model.parameters())
