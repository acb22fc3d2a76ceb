"""The probes of a small student and its teacher, on data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from mmengine.config import Config
from PIL import Image

from mmmaskdistill.apis import probing
from mmmaskdistill.apis.pretraining import init_pretraining
from mmmaskdistill.apis.probing import (
    extractors,
    measure_attention,
    probe_classification,
    probe_segmentation,
)
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.evaluation import attention_distance

VIEW = dict(
    type='mmmaskdistill.TwoViewDataPreprocessor',
    mean=[120.0, 110.0, 100.0],
    std=[60.0, 50.0, 40.0],
    second_mean=[127.0, 127.0, 127.0],
    second_std=[128.0, 128.0, 128.0],
    to_rgb=True,
)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    parts = dict(tiny.PARTS, **tiny.PIXEL_PARTS, data_preprocessor=VIEW)
    config = dict(model=dict(type='mmmaskdistill.MaskDistill', **parts))
    return init_pretraining(Config(config))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Pictures of black and white patches, labeled 0 and 1, and two classes of them."""
    root = tmp_path_factory.mktemp('probes')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for i in range(4):
            labels = rng.integers(0, 2, (4, 4)).repeat(16, 0).repeat(16, 1)
            labels = labels.astype(np.uint8)
            for kind, array, ending in (
                ('img', 255 * labels, 'png'),
                ('ann', labels, 'png'),
            ):
                path = root / kind / split / f'{i}.{ending}'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        for name, color in (('dark', 30), ('light', 220)):
            for i in range(3):
                path = root / 'classes' / split / name / f'{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((64, 64, 3), color + i, np.uint8)).save(path)
    return root


def loaders(dataset, **splits):
    return {
        f'{split}_dataloader': dict(dataset={**dataset, **own})
        for split, own in splits.items()
    }


@pytest.fixture(scope='module')
def segmentation(root):
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        img_suffix='.png',
        metainfo=dict(classes=('dark', 'light'), palette=[[0, 0, 0], [255] * 3]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    prefixes = {
        split: dict(
            data_prefix=dict(img_path=f'img/{split}', seg_map_path=f'ann/{split}')
        )
        for split in ('train', 'val')
    }
    # Augmentation of the training images is left out.
    flipped = [*dataset['pipeline'][:2], dict(type='RandomFlip', prob=1.0)]
    prefixes['train']['pipeline'] = [*flipped, dataset['pipeline'][2]]
    return Config(dict(default_scope='mmseg', **loaders(dataset, **prefixes)))


@pytest.fixture(scope='module')
def classification(root):
    dataset = dict(
        type='CustomDataset',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    roots = {s: dict(data_root=str(root / 'classes' / s)) for s in ('train', 'val')}
    return Config(dict(default_scope='mmpretrain', **loaders(dataset, **roots)))


def test_features_are_those_of_each_block_and_of_the_teacher(model):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = extractors(model)
    assert list(features) == ['student', 'block 1', 'teacher']
    data = model.data_preprocessor(dict(inputs=images, data_samples=None))
    student, teacher = data['inputs']
    outputs = model.backbone(student)[-1].flatten(2).mT
    torch.testing.assert_close(features['student'](images), outputs)
    tokens = torch.cat(
        [
            model.backbone.cls_token.expand(2, -1, -1),
            model.backbone.patch_embed(student)[0],
        ],
        1,
    )
    bias = model.backbone.rel_pos_bias((4, 4))
    first = model.backbone.blocks[0](tokens, (4, 4), bias)[:, 1:]
    torch.testing.assert_close(features['block 1'](images), first)
    torch.testing.assert_close(features['teacher'](images), model.teacher(teacher))
    assert model.backbone.out_indices == [1]


def test_pixels_tell_black_from_white(model, segmentation):
    """The teacher's features are the pixels, so its linear probe makes no error."""
    results = probe_segmentation(extractors(model), (4, 4), 64, segmentation)
    assert results['teacher'] == pytest.approx(100, abs=8)
    assert 0 < results['student'] <= 100


def test_neighbors_tell_dark_from_light(model, classification):
    results = probe_classification(extractors(model), 64, classification)
    assert results['teacher'] == 100


def test_attention_is_measured_in_every_block(model, classification):
    found = measure_attention(model, 64, classification)
    assert list(found) == ['block 1', 'student']
    # A new student attends to all patches alike.
    alike = attention_distance(torch.full((1, 1, 17, 17), 1 / 17), (4, 4))
    assert found['student'] == pytest.approx(16 * alike.item(), rel=0.05)
    assert not model.backbone.blocks[0].attn._forward_pre_hooks


def test_images_without_an_attention_distance_are_left_out(
    model, classification, monkeypatch
):
    calls = []

    def distance(weights, grid):
        calls.append(grid)
        first = len(calls) <= len(model.backbone.blocks)  # of the first image
        return torch.tensor([float('nan'), float('nan') if first else 2.0])

    monkeypatch.setattr(probing, 'attention_distance', distance)
    found = measure_attention(model, 64, classification)
    assert found == {'block 1': 32, 'student': 32} and len(calls) > 2


def test_configs_without_validation_data_are_refused(model):
    with pytest.raises(ConfigError, match=r'has no train_dataloader\.dataset'):
        probe_segmentation(extractors(model), (4, 4), 64, Config(dict()))


def test_tool_prints_a_table_and_writes_a_file(
    model, segmentation, classification, tmp_path, monkeypatch, capsys
):
    import runpy

    for name, config in (
        ('pretrain', model.cfg),
        ('segment', segmentation),
        ('classify', classification),
    ):
        config.dump(tmp_path / f'{name}.py')
    tool = Path(__file__).parents[2] / 'tools/analysis_tools/probe.py'
    args = ['--segment', 'segment.py', '--classify', 'classify.py', '--out', 'a/b.json']
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', [str(tool), 'pretrain.py', *args])
    runpy.run_path(str(tool), run_name='__main__')
    results = json.loads((tmp_path / 'a/b.json').read_text())
    assert results['k-NN top-1']['teacher'] == 100
    row = [f'{values["student"]:.1f}' for values in results.values()]
    line = next(x for x in capsys.readouterr().out.splitlines() if '| student' in x)
    assert [cell.strip() for cell in line.split('|')[2:-1]] == row
    for options, words in (
        (['pretrain.py'], 'give --segment or --classify'),
        (['pretrain.py', '--segment', 'no.py'], "'no.py' not found"),
        (['pretrain.py', *args, '--only', 'block 7'], 'expected some of student'),
    ):
        monkeypatch.setattr('sys.argv', [str(tool), *options])
        with pytest.raises(SystemExit, match=words):
            runpy.run_path(str(tool), run_name='__main__')
