import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mmengine
import pytest
from mmcv.utils.ext_loader import check_ops_exist
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.utils import digit_version
from torch import nn

from mmmaskdistill.compat import find_loader

ROOT = Path(__file__).parents[2]

# What Python 3.12 to 3.14 removed from two modules that the toolkits import.
REMOVE = """
import ast, pkgutil
vars(ast).pop('__getattr__', None)  # Python 3.12 and 3.13 keep the names behind it.
for name in ('Num', 'Str', 'Bytes', 'NameConstant', 'Ellipsis'):
    vars(ast).pop(name, None)
for name in ('find_loader', 'get_loader', 'ImpImporter', 'ImpLoader'):
    vars(pkgutil).pop(name, None)
"""

CONFIGS = {
    'base.py': """
from mmengine.optim import OptimWrapper

iterations: int = 2
if iterations:
    scale: float = 0.5
optim_wrapper: dict = dict(
    type=OptimWrapper,
    optimizer=dict(type='SGD', lr=scale, weight_decay=0.5),
    paramwise_cfg=dict(bias_decay_mult=0.0),
)
""",
    'lazy.py': """
from mmengine.config import read_base

with read_base():
    from .base import *

train_cfg: dict = dict(by_epoch=False, max_iters=iterations)
""",
    'plain.py': """
_base_ = ['mmseg::_base_/schedules/schedule_20k.py']
train_cfg: dict = dict(_delete_=True, by_epoch=False, max_iters=2)
optim_wrapper: dict = dict(paramwise_cfg=dict(bias_decay_mult=0.0))
""",
}

TRAIN = """
import sys
import torch
import mmmaskdistill
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, x, mode='tensor'):
        return dict(loss=self.linear(x).square().mean())

folder, name = sys.argv[1:]
cfg = Config.fromfile(f'{folder}/{name}')
assert not [key for key in cfg if key.startswith('__')], cfg
model = Model()
before = model.linear.weight.clone()
runner = Runner(
    model,
    f'{folder}/{name}.work_dir',
    train_dataloader=dict(
        dataset=[dict(x=torch.tensor([i, 1.0])) for i in range(4)],
        collate_fn=dict(type='default_collate'),
        batch_size=2,
        num_workers=1,
        sampler=dict(type='InfiniteSampler', seed=0),
    ),
    train_cfg=cfg.train_cfg,
    optim_wrapper=cfg.optim_wrapper,
    cfg=cfg,
)
runner.train()
assert runner.iter == 2
weight, bias = runner.optim_wrapper.param_groups[:2]
assert weight['weight_decay'] > bias['weight_decay'] == 0
assert not torch.equal(model.linear.weight, before)
"""


@pytest.fixture
def without_find_loader(monkeypatch):
    """``pkgutil`` as it is in Python 3.14."""
    # The second call makes monkeypatch remove what the test adds.
    monkeypatch.setattr(pkgutil, 'find_loader', None, raising=False)
    monkeypatch.delattr(pkgutil, 'find_loader')


def build_optimizer_with_paramwise_options():
    """Build an optimizer for which mmengine examines the type of every module."""
    return build_optim_wrapper(
        nn.Linear(2, 1),
        dict(
            optimizer=dict(type='SGD', lr=0.1, weight_decay=0.5),
            paramwise_cfg=dict(bias_decay_mult=0.0),
        ),
    )


calls_find_loader = pytest.mark.skipif(
    digit_version(mmengine.__version__) > digit_version('0.10.7'),
    reason='mmengine calls pkgutil.find_loader up to version 0.10.7',
)


@calls_find_loader
@pytest.mark.usefixtures('without_find_loader')
def test_unpatched_mmengine_cannot_build_a_runner(build_runner):
    with pytest.raises(AttributeError, match='find_loader'):
        build_runner()


@calls_find_loader
@pytest.mark.parametrize(
    'function',
    [
        build_optimizer_with_paramwise_options,
        lambda: revert_sync_batchnorm(nn.SyncBatchNorm(2)),
    ],
    ids=['optimizer', 'SyncBatchNorm'],
)
@pytest.mark.usefixtures('without_find_loader')
def test_unpatched_mmengine_needs_find_loader(function):
    with pytest.raises(AttributeError, match='find_loader'):
        function()


@pytest.mark.usefixtures('without_find_loader')
def test_unpatched_mmcv_needs_find_loader():
    with pytest.raises(AttributeError, match='find_loader'):
        check_ops_exist()


@pytest.mark.usefixtures('without_find_loader')
def test_patched_toolkits_work():
    find_loader.apply()
    weight, bias = build_optimizer_with_paramwise_options().param_groups[:2]
    assert (weight['weight_decay'], bias['weight_decay']) == (0.5, 0)
    assert not isinstance(revert_sync_batchnorm(nn.SyncBatchNorm(2)), nn.SyncBatchNorm)
    assert check_ops_exist() == (importlib.util.find_spec('mmcv._ext') is not None)


@pytest.mark.parametrize('config', ['plain.py', 'lazy.py'])
def test_training_works_without_the_names_that_python_removed(tmp_path, config):
    for name, text in CONFIGS.items():
        (tmp_path / name).write_text(text)
    run = subprocess.run(
        [sys.executable, '-c', REMOVE + TRAIN, str(tmp_path), config],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_python_with_find_loader_keeps_its_own(monkeypatch):
    own = object()
    monkeypatch.setattr(pkgutil, 'find_loader', own, raising=False)
    find_loader.apply()
    assert pkgutil.find_loader is own


@pytest.fixture(params=['replacement', 'original'])
def find(request):
    """The replacement, and the function of a Python that has one."""
    if request.param == 'replacement':
        return find_loader.find_loader
    if getattr(pkgutil, 'find_loader', None) in (None, find_loader.find_loader):
        pytest.skip('this Python has no pkgutil.find_loader')
    return pkgutil.find_loader


@pytest.mark.filterwarnings('ignore:.*find_loader.*:DeprecationWarning')
class TestFindLoader:
    def test_module_is_found_and_not_imported(self, find, tmp_path, monkeypatch):
        (tmp_path / 'never_imported.py').write_text('raise RuntimeError')
        monkeypatch.syspath_prepend(tmp_path)
        path = find('never_imported').get_filename('never_imported')
        assert Path(path) == tmp_path / 'never_imported.py'

    @pytest.mark.parametrize('name', ['mmnothing', 'mmcv.nothing'])
    def test_missing_module(self, find, name):
        assert find(name) is None

    @pytest.mark.parametrize('name', ['.mmcv', 'mmnothing.a', 'json.tool.a', 'no_spec'])
    def test_module_that_cannot_be_searched_for(self, find, name, monkeypatch):
        monkeypatch.setitem(sys.modules, 'no_spec', ModuleType('no_spec'))
        with pytest.raises(ImportError, match=name.replace('.', r'\.')):
            find(name)
