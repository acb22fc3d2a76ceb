"""Every recipe's config runs, at reduced width, on data in the usual layout."""
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import mmmaskdistill  # noqa: F401  before configs are read

ROOT = Path(__file__).parent.parent
RECIPES = sorted(
    path for folder in ('pretrain', 'finetune', 'segmentation')
    for path in glob(str(ROOT / 'configs' / folder / '*.py')))
ARCH = dict(
    embed_dims=48, num_layers=12, num_heads=3, feedforward_channels=96)


def picture(path, shape, top=256):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def data(tmp_path):
    """`data/` as ImageNet and ADE20K lie in it, two images each."""
    for split in ('train', 'val'):
        for i in range(1000):
            (tmp_path / f'data/imagenet/{split}/n{i}').mkdir(parents=True)
        for name in ('n0', 'n1'):
            picture(tmp_path / f'data/imagenet/{split}/{name}/{name}.JPEG',
                    (90, 100, 3))
    ade = tmp_path / 'data/ade/ADEChallengeData2016'
    for split in ('training', 'validation'):
        for i in range(2):
            picture(ade / f'images/{split}/{i}.jpg', (70, 80, 3))
            picture(ade / f'annotations/{split}/{i}.png', (70, 80), 151)
    return tmp_path


@pytest.fixture
def pretrained(tmp_path):
    from mmmaskdistill.models import MaskDistillViT
    vit = MaskDistillViT(ARCH)
    vit.init_weights()
    path = tmp_path / 'pretrained.pth'
    torch.save({f'backbone.{k}': v for k, v in vit.state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize('config', RECIPES, ids=lambda p: Path(p).stem)
def test_two_iterations(config, data, pretrained, monkeypatch):
    monkeypatch.chdir(data)
    cfg = Config.fromfile(config)
    cfg.work_dir = str(data / 'run')
    cfg.experiment_name = Path(config).stem
    cfg.model.backbone.arch = ARCH
    for name in ('train_dataloader', 'val_dataloader'):
        if name in cfg:
            cfg[name].update(
                batch_size=1 if name == 'val_dataloader' else 2,
                num_workers=0,
                persistent_workers=False,
                pin_memory=False)
            if cfg.default_scope == 'mmpretrain':
                cfg[name].collate_fn = dict(type='default_collate')
    if 'teacher' in cfg.model:
        cfg.model.teacher.update(model_name='test_vit', pretrained='random')
        cfg.model.head.update(in_channels=48, out_channels=64)
        cfg.train_cfg.max_epochs = 2
    else:
        cfg.model.backbone.init_cfg.checkpoint = pretrained
    if 'decode_head' in cfg.model:
        cfg.model.neck.embed_dim = 48
        cfg.model.decode_head.update(in_channels=[48] * 4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=48, channels=8)
        cfg.train_cfg.update(max_iters=2, val_interval=2)
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 1
        cfg.param_scheduler[1].end = 2
    elif cfg.model.head.type == 'LinearClsHead':
        cfg.model.head.in_channels = 48
        cfg.train_cfg.max_epochs = 2
        cfg.train_cfg.val_interval = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    scores = dict(decode_head='val/mIoU', head='val/accuracy/top1')
    if 'teacher' not in cfg.model:
        score = next(s for part, s in scores.items() if part in cfg.model)
        assert 0 <= runner.message_hub.get_scalar(score).current() <= 100


def test_model_index_names_files_that_exist():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = set()
    for path in index['Import']:
        for model in yaml.safe_load((ROOT / path).read_text())['Models']:
            assert (ROOT / model['Config']).is_file()
            listed.add(str(ROOT / model['Config']))
    assert listed >= set(RECIPES)
