"""Environments of their own, which `pytest -m environment` selects.

They take the packages of the environment that the tests run in, but not its
mmmaskdistill: that one comes from a wheel built of this checkout.
"""

import shutil
import sys

import numpy as np
import pytest
from helpers.environments import ROOT, new_environment, run
from PIL import Image

PRETRAIN = """
_base_ = 'mmmaskdistill::pretrain/{recipe}'
model = dict(teacher=dict(pretrained='random', layer=0))
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(with_label=False))
train_cfg = dict(max_epochs=1)
param_scheduler = []
"""


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the checkout."""
    source = tmp_path_factory.mktemp('source') / 'mmmaskdistill'
    leave_out = shutil.ignore_patterns(
        '.git', '.venv*', 'work_dirs', 'data', 'build', 'dist', '*.egg-info'
    )
    shutil.copytree(ROOT, source, symlinks=True, ignore=leave_out)
    out = tmp_path_factory.mktemp('wheel')
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check')
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', out, source, cwd=out)
    (path,) = out.glob('*.whl')
    return path


@pytest.fixture(scope='session')
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel."""
    return new_environment(tmp_path_factory.mktemp('environment'), wheel)


@pytest.fixture
def folder(tmp_path):
    """A folder with nothing but a config of a user's own and four pictures."""
    rng = np.random.default_rng(0)
    images = tmp_path / 'data/imagenet/train'
    images.mkdir(parents=True)
    for i in range(4):
        picture = rng.integers(0, 256, (240, 250, 3), dtype=np.uint8)
        Image.fromarray(picture).save(images / f'{i}.jpg')
    recipe = 'maskdistill_vit-ti16_clip-b16_8xb256-amp-coslr-300e_in1k.py'
    (tmp_path / 'pretrain.py').write_text(PRETRAIN.format(recipe=recipe))
    return tmp_path
