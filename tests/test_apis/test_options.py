"""What options do to the configs that they are meant for."""

from glob import glob
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

import mmmaskdistill  # noqa: F401  before configs are read
from mmmaskdistill.apis import configs

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize('recipe', glob(str(ROOT / 'configs/segmentation/*.py')))
def test_tta_is_the_test_pipeline_at_six_scales(recipe, tmp_path):
    datasets = pytest.importorskip('sklearn.datasets')
    picture = datasets.load_sample_image('china.jpg')  # 427 x 640
    labels = np.random.default_rng(0).integers(0, 151, picture.shape[:2])
    Image.fromarray(picture).save(tmp_path / 'a.png')
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / 'b.png')
    image = dict(
        img_path=str(tmp_path / 'a.png'),
        seg_map_path=str(tmp_path / 'b.png'),
        reduce_zero_label=True,
        seg_fields=[],
    )
    cfg = Config.fromfile(recipe)
    init_default_scope('mmseg')
    plain = Compose(cfg.test_dataloader.dataset.pipeline)(dict(image))
    configs.enable_tta(cfg)
    tta = Compose(cfg.test_dataloader.dataset.pipeline)(dict(image))

    views = tta['inputs']
    assert [tuple(view.shape[1:]) for view in views[::2]] == [
        (256, 384),
        (384, 576),
        (512, 767),
        (640, 959),
        (768, 1151),
        (896, 1343),
    ]
    for view, flipped in zip(views[::2], views[1::2]):
        assert torch.equal(view.flip(2), flipped)
    assert torch.equal(views[4], plain['inputs'])
    for sample in tta['data_samples']:
        assert torch.equal(
            sample.gt_sem_seg.data, plain['data_samples'].gt_sem_seg.data
        )
