"""openmim's commands find the tools and the configs of the package.

openmim needs an old setuptools, hence an environment of its own.
"""

import pytest
from helpers.environments import install, new_environment, run

pytestmark = pytest.mark.environment

RECIPE = 'maskdistill_vit-ti16_clip-b16_8xb256-amp-coslr-300e_in1k.py'
SMALLER = [
    'model.teacher.pretrained=random',
    'model.teacher.layer=0',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.dataset.with_label=False',
    'train_cfg.max_epochs=2',
    'param_scheduler.0.end=1',
    'param_scheduler.1.begin=1',
]


@pytest.fixture(scope='module')
def mim(wheel, tmp_path_factory):
    """The interpreter of an environment with openmim."""
    python = new_environment(tmp_path_factory.mktemp('mim'), wheel)
    (packages,) = python.parents[1].glob('lib/python*/site-packages')
    try:
        install(packages, '--upgrade', 'openmim')
        # openmim requires setuptools 60.2.0, which does not work since Python 3.12.
        install(packages, '--upgrade', '--no-deps', 'setuptools>=77,<82')
    except AssertionError as error:
        pytest.skip(f'openmim cannot be installed here: {error}'[-400:])
    return python


def test_mim_trains_a_recipe_by_its_name(mim, folder):
    command = ('-m', 'mim', 'train', 'mmmaskdistill', RECIPE, '--gpus', '0')
    log = run(mim, *command, '--cfg-options', *SMALLER, cwd=folder)
    assert 'Training finished successfully' in log
    assert (folder / f'work_dirs/{RECIPE[:-3]}/epoch_2.pth').is_file()


def test_mim_trains_a_config_of_ones_own_in_two_processes(mim, folder):
    command = ('-m', 'mim', 'train', 'mmmaskdistill', 'pretrain.py')
    log = run(mim, *command, '--launcher', 'pytorch', '--gpus', '2', cwd=folder)
    assert 'Epoch(train) [1][1/1]' in log
    assert (folder / 'work_dirs/pretrain/epoch_1.pth').is_file()
