from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import mmmaskdistill  # noqa: F401  (needed before configs are read)

CONFIGS = Path(__file__).parent.parent.parent / 'configs'


def recipe_names():
    return sorted(
        path.stem
        for folder in ('pretrain', 'finetune', 'segmentation')
        for path in (CONFIGS / folder).glob('*.py')
    )


@pytest.fixture(params=recipe_names())
def name(request):
    """The name of a recipe; a test that uses it runs for every recipe."""
    return request.param


@pytest.fixture(scope='session')
def names():
    """The names of all recipes."""
    return recipe_names()


@pytest.fixture(scope='session')
def recipe():
    """Read the config of a recipe; each file is read only once."""
    read = {}

    def get(name):
        if name not in read:
            (path,) = CONFIGS.glob(f'*/{name}.py')
            # Formatting the config as Python code is slow.
            read[name] = Config.fromfile(path, format_python_code=False)
        return deepcopy(read[name])

    return get


def picture(path, shape, top=256):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8)).save(path)


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """A folder whose `data/` has the layout of ImageNet and ADE20K.

    Every split has two images.
    """
    workspace = tmp_path_factory.mktemp('recipes')
    for split in ('train', 'val'):
        for i in range(1000):
            (workspace / f'data/imagenet/{split}/n{i}').mkdir(parents=True)
        for name in ('n0', 'n1'):
            picture(
                workspace / f'data/imagenet/{split}/{name}/{name}.JPEG', (90, 100, 3)
            )
    ade = workspace / 'data/ade/ADEChallengeData2016'
    for split in ('training', 'validation'):
        for i in range(2):
            picture(ade / f'images/{split}/{i}.jpg', (70, 80, 3))
            picture(ade / f'annotations/{split}/{i}.png', (70, 80), 151)
    return workspace
