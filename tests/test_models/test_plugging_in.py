"""mmseg's and mmpretrain's own configs train with MaskDistillViT as backbone.

Only the backbone is replaced.
"""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import mmmaskdistill  # noqa: F401  (needed before configs are read)

VIT = """dict(
    _delete_=True,
    type='mmmaskdistill.MaskDistillViT',
    arch=dict(embed_dims={width}, num_layers=4, num_heads=4,
              feedforward_channels=64),
    img_size=64,
    out_indices=(0, 1, 2, 3){options})"""
SEGMENTORS = {
    # UperNet on a ViT
    'vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512': (384, ''),
    # an FCN head on a ViT
    'segmenter/segmenter_vit-s_fcn_8xb1-160k_ade20k-512x512': (
        384,
        ', final_norm=True',
    ),
    'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512': (192, ''),
    # SETR, whose four heads each take the features of one of four blocks
    'setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512': (1024, ''),
}


@pytest.fixture
def ade(tmp_path):
    """Four images in ADE20K's layout."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind, shape, ending in (
            ('images', (72, 80, 3), 'jpg'),
            ('annotations', (72, 80), 'png'),
        ):
            folder = tmp_path / 'ade' / kind / split
            folder.mkdir(parents=True)
            for i in range(2):
                top = 256 if kind == 'images' else 151
                pixels = rng.integers(0, top, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.{ending}')
    return tmp_path / 'ade'


def write(tmp_path, base, backbone, more=''):
    path = tmp_path / 'config.py'
    path.write_text(
        f"_base_ = '{base}.py'\n"
        "custom_imports = dict(imports=['mmmaskdistill'])\n"
        f'model = dict(backbone={backbone}{more})\n'
    )
    return Config.fromfile(path)


def train(cfg, tmp_path, **options):
    """Train for two iterations and evaluate; the backbone's weights must change."""
    cfg.merge_from_dict(
        {
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            **options,
        }
    )
    cfg.work_dir = str(tmp_path / 'run')
    cfg.experiment_name = str(tmp_path.name)
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    changed = [
        k
        for k in before
        if k.startswith('backbone.blocks') and not torch.equal(before[k], after[k])
    ]
    assert changed
    return runner


@pytest.mark.parametrize('config', SEGMENTORS)
def test_segmentation_config_trains_with_the_backbone(config, ade, tmp_path):
    width, options = SEGMENTORS[config]
    backbone = VIT.format(width=width, options=options)
    if 'segmenter' in config:
        # Segmenter's heads take the features of a single block.
        backbone = backbone.replace('(0, 1, 2, 3)', '3')
    cfg = write(tmp_path, f'mmseg::{config}', backbone, ', pretrained=None')
    size = (64, 64)
    data = {
        f'{split}_dataloader.dataset.data_root': str(ade)
        for split in ('train', 'val', 'test')
    }
    for i, step in enumerate(cfg.train_dataloader.dataset.pipeline):
        if step.type == 'RandomCrop':
            data[f'train_dataloader.dataset.pipeline.{i}.crop_size'] = size
        if step.type == 'RandomResize':
            data[f'train_dataloader.dataset.pipeline.{i}.scale'] = (128, 80)
    for i, step in enumerate(cfg.val_dataloader.dataset.pipeline):
        if step.type == 'Resize':
            data[f'val_dataloader.dataset.pipeline.{i}.scale'] = (128, 80)
    if cfg.model.test_cfg.mode == 'slide':
        data['model.test_cfg.crop_size'] = size
        data['model.test_cfg.stride'] = (40, 40)
    runner = train(
        cfg,
        tmp_path,
        **data,
        **{
            'model.data_preprocessor.size': size,
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
        },
    )
    assert 0 <= runner.message_hub.get_scalar('val/mIoU').current() <= 100


def test_classification_config_trains_with_the_backbone(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (80, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{i}.jpg')
    (tmp_path / 'labels.txt').write_text('0.jpg 0\n1.jpg 7\n2.jpg 1\n3.jpg 9')
    cfg = write(
        tmp_path,
        'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k',
        VIT.format(width=768, options=", out_type='cls_token'").replace(
            '(0, 1, 2, 3)', '-1'
        ),
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset = dict(
            type='CustomDataset',
            data_root=str(tmp_path),
            ann_file='labels.txt',
            data_prefix='',
            pipeline=loader.dataset.pipeline,
        )
        loader.collate_fn = dict(type='default_collate')
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
    cfg.param_scheduler = []
    runner = train(cfg, tmp_path)
    top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
    assert 0 <= top1 <= 100
