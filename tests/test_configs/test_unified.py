"""Each method of configs/unified runs, and is in the table of the README."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from test_recipe_runs import ARCH, Start

from mmmaskdistill.apis.configs import complete_dataloader

UNIFIED = Path(__file__).parents[2] / 'configs' / 'unified'
METHODS = sorted(path.stem for path in UNIFIED.glob('*.py'))
WIDTH = ARCH['embed_dims']


def read(name):
    return Config.fromfile(UNIFIED / f'{name}.py', format_python_code=False)


def shrink(cfg):
    """Four narrow blocks, two images a batch, two iterations."""
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=0)
    complete_dataloader(loader, cfg.default_scope)
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    for schedule, end in zip(cfg.param_scheduler, (1, 2)):
        schedule.update(begin=end - 1, end=end)
    model = cfg.model
    model.backbone.arch = ARCH
    model.head.in_channels = WIDTH
    kind = model.teacher.type.split('.')[1]
    model.teacher.update({
        'TimmTeacher': dict(pretrained='random', layer=0),
        'DALLETeacher': dict(pretrained='random', width=8),
        'VQKDTeacher': dict(pretrained='random', arch=ARCH),
        'MomentumTeacher': dict(num_layers=2),
    }.get(kind, {}))
    if kind == 'MomentumTeacher':
        model.head.out_channels = WIDTH
    if model.backbone.type.endswith('PatchAggregationViT'):
        model.backbone.early_layers = 2
    if model.head.type.endswith('DecoderHead'):
        model.head.update(embed_dims=16, num_layers=1, num_heads=2)


@pytest.mark.parametrize('name', METHODS)
def test_two_iterations(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    cfg = read(name)
    cfg.update(work_dir=str(tmp_path), experiment_name=f'unified_{name}')
    shrink(cfg)
    runner = Runner.from_cfg(cfg)
    start = Start()
    runner.register_hook(start)
    runner.train()
    assert runner.iter == 2
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    still = {
        k for k, v in runner.model.named_parameters()
        if v.requires_grad and torch.equal(v, start.weights[k])
    }
    # Nothing is hidden where all is distilled.
    hides = 'NoMask' not in cfg.train_pipeline[-2].type
    assert still <= (set() if hides else {'backbone.mask_token'})


def test_the_table_is_up_to_date(request):
    root = request.config.rootpath
    subprocess.run(
        [sys.executable, 'tools/analysis_tools/list_methods.py', '--check'],
        cwd=root,
        check=True)
    readme = (root / 'configs/unified/README.md').read_text()
    assert all(f']({name}.py)' in readme for name in METHODS)


def test_views_are_the_teachers():
    """Each timm teacher's own mean and std."""
    for name in METHODS:
        cfg = read(name)
        if 'model_name' not in cfg.model.teacher:
            continue
        published = timm.get_pretrained_cfg(cfg.model.teacher.model_name)
        view = cfg.data_preprocessor
        for ours, theirs in ((view.second_mean, published.mean),
                             (view.second_std, published.std)):
            np.testing.assert_allclose(
                ours, np.multiply(theirs, 255), atol=2e-3)
