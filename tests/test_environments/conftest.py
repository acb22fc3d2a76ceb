"""Environments of their own, which `pytest -m environment` selects.

They take the packages of the environment that the tests run in, but not its
mmmaskdistill: that one comes from a wheel built of this checkout.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]

PRETRAIN = """
_base_ = 'mmmaskdistill::pretrain/{recipe}'
model = dict(teacher=dict(pretrained='random', layer=0))
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(with_label=False))
train_cfg = dict(max_epochs=1)
param_scheduler = []
"""


def run(*command, cwd: Path, **kwargs) -> str:
    """Run a command in a folder and return what it printed."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        **kwargs,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


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
    run(
        *pip,
        'wheel',
        '--no-deps',
        '--no-build-isolation',
        '--wheel-dir',
        out,
        source,
        cwd=out,
    )
    (path,) = out.glob('*.whl')
    return path


@pytest.fixture(scope='session')
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel."""
    place = tmp_path_factory.mktemp('environment')
    venv.create(place, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths('venv', vars=dict(base=str(place), platbase=str(place)))
    packages = Path(paths['purelib'])
    # A folder named in a .pth file is searched after the environment's own folder,
    # and its .pth files, which lead to the checkout, are not read.
    (packages / 'packages_of_the_tests.pth').write_text(
        sysconfig.get_paths()['purelib'] + '\n'
    )
    run(
        sys.executable,
        '-m',
        'pip',
        'install',
        '--no-deps',
        '--no-index',
        '--target',
        packages,
        wheel,
        cwd=place,
    )
    return Path(paths['scripts']) / 'python'


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
