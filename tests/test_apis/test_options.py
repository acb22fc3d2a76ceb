"""Effects of command-line options on the configs they are meant for."""

from glob import glob
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

import mmmaskdistill  # noqa: F401  (needed before configs are read)
from mmmaskdistill.apis import configs
from mmmaskdistill.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent


def resized(height, width, ratio):
    """Return the size of a test view in BEiT v2's code (`setr_multi_scale`)."""
    short = max(512, int(512 * ratio))
    factor = short / min(height, width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def open_picture(path, size):
    """Write a random picture with labels and return what a dataset says about it."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = rng.integers(0, 151, size, dtype=np.uint8)
    Image.fromarray(picture).save(path / 'a.png')
    Image.fromarray(labels).save(path / 'b.png')
    return dict(
        img_path=str(path / 'a.png'),
        seg_map_path=str(path / 'b.png'),
        reduce_zero_label=True,
        seg_fields=[],
    )


@pytest.mark.parametrize('recipe', glob(str(ROOT / 'configs/segmentation/*.py')))
def test_tta_views_have_the_sizes_of_beit_v2(recipe, tmp_path):
    image = open_picture(tmp_path, (427, 640))
    cfg = Config.fromfile(recipe)
    init_default_scope('mmseg')
    plain = Compose(cfg.test_dataloader.dataset.pipeline)(dict(image))
    configs.enable_tta(cfg)
    tta = Compose(cfg.test_dataloader.dataset.pipeline)(dict(image))

    views = tta['inputs']
    assert [tuple(view.shape[1:]) for view in views[::2]] == [
        (512, 767),
        (512, 767),
        (512, 767),
        (640, 959),
        (768, 1151),
        (896, 1343),
    ]
    for view, flipped in zip(views[::2], views[1::2]):
        assert torch.equal(view.flip(2), flipped)
    for view in views[:6:2]:
        assert torch.equal(view, plain['inputs'])
    for sample in tta['data_samples']:
        assert torch.equal(
            sample.gt_sem_seg.data, plain['data_samples'].gt_sem_seg.data
        )


@pytest.mark.parametrize('size', [(96, 128), (333, 200), (100, 517), (641, 479)])
def test_tta_keeps_the_ratio_of_any_picture(size, tmp_path):
    """Small, upright and very long pictures keep their aspect ratio."""
    recipe = 'vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512.py'
    cfg = Config.fromfile(ROOT / 'configs/segmentation' / recipe)
    init_default_scope('mmseg')
    configs.enable_tta(cfg)
    pipeline = Compose(cfg.test_dataloader.dataset.pipeline)
    views = pipeline(open_picture(tmp_path, size))['inputs']
    assert [tuple(view.shape[1:]) for view in views[::2]] == [
        resized(*size, ratio) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    ]


def own_data_config(tmp_path, **dataset):
    """The recipe for ADE20K with a data set whose labels begin at 0."""
    recipe = 'vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512.py'
    cfg = Config.fromfile(ROOT / 'configs/segmentation' / recipe)
    cfg.test_dataloader.dataset.update(type='BaseSegDataset', **dataset)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'LoadAnnotations':
            step.pop('reduce_zero_label')
    init_default_scope('mmseg')
    return cfg


def test_tta_takes_the_labels_of_the_data_set(tmp_path):
    cfg = own_data_config(tmp_path)
    sample = {**open_picture(tmp_path, (96, 128)), 'reduce_zero_label': False}
    labels = np.asarray(Image.open(sample['seg_map_path']))
    configs.enable_tta(cfg)
    views = Compose(cfg.test_dataloader.dataset.pipeline)(sample)
    for view in views['data_samples']:
        assert np.array_equal(view.gt_sem_seg.data[0], labels)


def test_tta_loads_what_the_test_pipeline_loads(tmp_path):
    cfg = own_data_config(tmp_path)
    test = cfg.test_dataloader.dataset.pipeline
    test[0] = dict(type='LoadImageFromFile', color_type='grayscale')
    labels = next(step for step in test if step['type'] == 'LoadAnnotations')
    labels.update(imdecode_backend='cv2')
    before = [dict(step) for step in cfg.tta_pipeline]
    configs.enable_tta(cfg)
    image, tta = cfg.test_dataloader.dataset.pipeline
    assert image == test[0]
    assert tta.transforms[2] == [labels]
    assert [dict(step) for step in cfg.tta_pipeline] == before


def test_tta_without_labels_has_no_step_for_them(tmp_path):
    cfg = own_data_config(tmp_path)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [s for s in dataset.pipeline if s['type'] != 'LoadAnnotations']
    configs.enable_tta(cfg)
    sample = open_picture(tmp_path, (96, 128))
    views = Compose(cfg.test_dataloader.dataset.pipeline)(sample)
    assert len(views['inputs']) == 12
    assert 'gt_sem_seg' not in views['data_samples'][0]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = dict(b=1 c=2)', 'SyntaxError: invalid syntax'),
        ('a = dict(b=wrong)', "NameError: name 'wrong' is not defined"),
        ('a = 1 + "b"', 'TypeError: unsupported operand'),
    ],
)
def test_configs_that_are_no_python_are_named(tmp_path, text, message):
    (tmp_path / 'a.py').write_text(text)
    with pytest.raises(ConfigError, match=f"config '.*a.py' cannot be read: {message}"):
        configs.load_config(str(tmp_path / 'a.py'))
