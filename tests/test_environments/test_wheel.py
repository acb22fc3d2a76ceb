"""What is installed from a wheel works away from the checkout."""

import zipfile
from email.parser import Parser

import pytest
from helpers.environments import ROOT, run

pytestmark = pytest.mark.environment


def test_wheel_holds_configs_tools_and_the_model_index(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    configs = {
        f'mmmaskdistill/.mim/{path.relative_to(ROOT).as_posix()}'
        for pattern in ('configs/**/*.py', 'configs/**/*.yml', 'tools/**/*.py')
        for path in ROOT.glob(pattern)
    }
    assert len(configs) > 100
    assert configs <= names
    assert {
        'mmmaskdistill/py.typed',
        'mmmaskdistill/.mim/model-index.yml',
        'mmmaskdistill/.mim/tools/dist_train.sh',
        'mmmaskdistill/.mim/tools/launch.sh',
    } <= names
    unwanted = ('.png', '.pyc', 'quickstart.sh', 'run_tests.sh', 'gpu_report.sh')
    assert not [name for name in names if name.endswith(unwanted)]
    assert not [name for name in names if name.startswith(('tests/', 'configs/'))]


def test_metadata_is_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = Parser().parsestr(archive.read(name).decode())
        licence = name.replace('METADATA', 'licenses/LICENSE')
        assert archive.read(licence) == (ROOT / 'LICENSE').read_bytes()
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Description-Content-Type'] == 'text/markdown'
    assert metadata['Keywords'] and metadata.get_all('Classifier')
    required = {
        line.split(';')[0].split('>')[0].split('=')[0].strip()
        for line in metadata.get_all('Requires-Dist')
    }
    assert {'safetensors', 'prettytable', 'importlib-metadata', 'timm'} <= required


def test_package_is_the_one_of_the_wheel(python, tools):
    assert tools.startswith(str(python.parents[1]))


@pytest.fixture
def tools(python, folder):
    """The tools in the installed package."""
    code = 'import mmmaskdistill; print(mmmaskdistill.__path__[0] + "/.mim/tools")'
    return run(python, '-c', code, cwd=folder).splitlines()[-1]


def test_config_of_the_package_trains_from_an_empty_folder(python, tools, folder):
    """`_base_` names a config of the package; tools/train.py is the package's."""
    log = run(python, f'{tools}/train.py', 'pretrain.py', cwd=folder)
    assert 'Epoch(train) [1][2/2]' in log
    assert (folder / 'work_dirs/pretrain/epoch_1.pth').is_file()


def test_dist_train_of_the_package_starts_processes(python, tools, folder):
    log = run(
        'bash',
        f'{tools}/dist_train.sh',
        'pretrain.py',
        '2',
        cwd=folder,
        env=dict(PATH='/usr/bin:/bin', PYTHON=str(python), OMP_NUM_THREADS='1'),
    )
    assert 'Epoch(train) [1][1/1]' in log


def test_hub_finds_configs_of_the_package(python, folder):
    printed = run(
        python,
        '-c',
        'import mmmaskdistill\n'
        'from mmengine.hub import get_config\n'
        'recipe = "mmmaskdistill::pretrain/'
        'maskdistill_vit-h14_clip-l14_8xb64-accum4-amp-coslr-300e_in1k.py"\n'
        'print(get_config(recipe).model.backbone.arch)\n'
        'print(get_config("mmmaskdistill::_base_/models/upernet.py").model.type)\n',
        cwd=folder,
    )
    assert printed.splitlines()[-2:] == ['huge', 'mmmaskdistill.EncoderDecoder']
