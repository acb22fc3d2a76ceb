from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import mmmaskdistill  # noqa: F401  before configs are read

CONFIGS = Path(__file__).parent.parent.parent / 'configs'


def recipe_names():
    return sorted(
        path.stem
        for folder in ('pretrain', 'finetune', 'segmentation')
        for path in (CONFIGS / folder).glob('*.py')
    )


@pytest.fixture(params=recipe_names())
def name(request):
    """Each recipe's name in turn."""
    return request.param


@pytest.fixture(scope='session')
def names():
    """The recipes' names."""
    return recipe_names()


@pytest.fixture(scope='session')
def recipe():
    """Read the config of a name, each file once."""
    read = {}

    def get(name):
        if name not in read:
            (path,) = CONFIGS.glob(f'*/{name}.py')
            # Formatting it for the log is slow.
            read[name] = Config.fromfile(path, format_python_code=False)
        return deepcopy(read[name])

    return get


def picture(path, shape, top=256):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8)).save(path)


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """A folder with `data/` as ImageNet and ADE20K lie in it, two images a
    split."""
    place = tmp_path_factory.mktemp('recipes')
    for split in ('train', 'val'):
        for i in range(1000):
            (place / f'data/imagenet/{split}/n{i}').mkdir(parents=True)
        for name in ('n0', 'n1'):
            picture(place / f'data/imagenet/{split}/{name}/{name}.JPEG', (90, 100, 3))
    ade = place / 'data/ade/ADEChallengeData2016'
    for split in ('training', 'validation'):
        for i in range(2):
            picture(ade / f'images/{split}/{i}.jpg', (70, 80, 3))
            picture(ade / f'annotations/{split}/{i}.png', (70, 80), 151)
    return place
