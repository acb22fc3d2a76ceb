"""tools/test.py on segmentation and classification configs."""

import csv
import glob
import json
import os
import shutil

import numpy as np
import pytest
import torch
from mmengine import load
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import mmmaskdistill  # noqa: F401


def save_untrained(workspace, name):
    """Save a checkpoint of a config with random weights."""
    cfg = Config.fromfile(workspace / f'{name}.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    path = workspace / f'untrained-{name}.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def classifier(workspace):
    """A checkpoint of the classification config."""
    return save_untrained(workspace, 'classify')


@pytest.fixture(scope='module')
def segmentor(workspace):
    """A checkpoint of the segmentation config."""
    return save_untrained(workspace, 'segment')


@pytest.fixture
def json_of(tool, workspace):
    """Run the tool, and return the metrics that it writes."""

    def run(*args):
        tool('test.py', *args, '--work-dir', 'test', '--out', 'metrics.json')
        return json.loads((workspace / 'metrics.json').read_text())

    return run


def read_labels(workspace, k):
    """The label map of an image as the model sees it; 255 is ignored."""
    values = np.asarray(Image.open(workspace / f'annotations/{k:02}.png')).astype(int)
    return np.where(values == 0, 255, values - 1)


def test_segmentation_writes_label_maps_and_pictures(tool, segmentor, workspace):
    (workspace / 'run').mkdir()
    shutil.copy(segmentor, workspace / 'run/iter_1.pth')
    tool(
        'test.py',
        'segment.py',
        'run',  # a work dir
        '--work-dir',
        'test',
        '--out',
        'maps',
        '--show-dir',
        'pictures',
    )
    maps = sorted(glob.glob(str(workspace / 'maps/*.png')))
    assert len(maps) == 16
    assert np.asarray(Image.open(maps[0])).shape == (80, 96)
    assert len(glob.glob(str(workspace / 'pictures/**/*.png'), recursive=True)) == 16


def test_segmentation_is_reported_by_class(json_of, tool, segmentor, workspace):
    metrics = json_of(
        *('segment.py', segmentor, '--confusion', 'confusion', '--worst', 3),
        *('--show-dir', 'worst'),
    )
    tool('test.py', 'segment.py', segmentor, '--work-dir', 'test', '--out', 'a.pkl')
    predictions = load(workspace / 'a.pkl')
    assert [item['img_path'][-6:] for item in predictions] == [
        f'{k:02}.jpg' for k in range(16)
    ]
    assert not any('seg_logits' in item for item in predictions)
    matrix, scores = np.zeros((150, 150), int), []
    for k, item in enumerate(predictions):
        prediction, truth = (
            item[key]['data'].numpy()[0] for key in ('pred_sem_seg', 'gt_sem_seg')
        )
        assert prediction.dtype == truth.dtype == np.uint8
        np.testing.assert_array_equal(truth, read_labels(workspace, k))
        pairs = np.zeros_like(matrix)
        valid = truth != 255
        np.add.at(pairs, (truth[valid], prediction[valid]), 1)
        matrix += pairs
        hits, labeled = pairs.diagonal(), pairs.sum(1)
        ious = hits[:4] / (labeled + pairs.sum(0) - hits)[:4]
        scores.append((100 * ious.mean(), k))

    assert set(metrics) == {'aAcc', 'mIoU', 'mAcc', 'classes', 'worst'}
    names = [item['name'] for item in metrics['classes']]
    assert len(names) == 150 and names[:2] == ['wall', 'building']
    ious = [item['IoU'] for item in metrics['classes']]
    assert np.mean([x for x in ious if x is not None]) == pytest.approx(
        metrics['mIoU'], abs=0.01
    )
    assert [item['labeled'] for item in metrics['classes']] == matrix.sum(1).tolist()
    assert [item['correct'] for item in metrics['classes']] == (
        matrix.diagonal().tolist()
    )

    with open(workspace / 'confusion/confusion.csv', newline='') as file:
        head, *rows = csv.reader(file)
    assert head == ['true / predicted', *names] and [row[0] for row in rows] == names
    np.testing.assert_array_equal([list(map(int, row[1:])) for row in rows], matrix)
    with Image.open(workspace / 'confusion/confusion.png') as picture:
        assert picture.size[0] > 150 * 20

    expected = sorted(scores)[:3]
    assert [item['image'][-6:] for item in metrics['worst']] == [
        f'{k:02}.jpg' for _, k in expected
    ]
    assert [item['mIoU'] for item in metrics['worst']] == pytest.approx(
        [score for score, _ in expected], abs=0.006
    )
    assert os.listdir(workspace / 'worst') == ['worst.png']


def test_two_processes_write_what_one_writes(tool, run, segmentor, workspace):
    """Of fifteen images, the sampler gives the first one to both processes."""
    folder = workspace / 'fifteen'
    folder.mkdir()
    (folder / 'list.txt').write_text('\n'.join(f'{k:02}' for k in range(15)))
    for name, call in (
        ('two', lambda *args: run('dist_test.sh', 'segment.py', segmentor, 2, *args)),
        ('one', lambda *args: tool('test.py', 'segment.py', segmentor, *args)),
    ):
        call(
            *('--work-dir', 'test', '--out', folder / f'{name}.pkl'),
            *('--confusion', folder / f'{name}.csv'),
            *('--worst', 4, '--show-dir', folder / name, '--cfg-options'),
            f'test_dataloader.dataset.ann_file={folder}/list.txt',
        )
    one, two = (load(folder / f'{name}.pkl') for name in ('one', 'two'))
    assert [item['img_path'][-6:-4] for item in two] == [f'{k:02}' for k in range(15)]
    for a, b in zip(one, two):
        assert a['img_path'] == b['img_path']
        assert torch.equal(a['pred_sem_seg']['data'], b['pred_sem_seg']['data'])
    for file in ('{}.csv', '{}/worst.png'):
        one, two = ((folder / file.format(n)).read_bytes() for n in ('one', 'two'))
        assert one == two
    rows = list(csv.reader((folder / 'one.csv').open(newline='')))[1:]
    assert sum(int(number) for row in rows for number in row[1:]) == sum(
        (read_labels(workspace, k) != 255).sum() for k in range(15)
    )
    assert len(list(folder.glob('*.p*'))) == 2  # no part is left


NO_METRIC = 'the images of test_dataloader have no labels, so there is no metric to'
# What the data set is changed to, and the error if metrics are asked for.
NO_LABELS = {
    'no folder is named': (
        "data_prefix=dict(_delete_=True, img_path='images')",
        NO_METRIC,
    ),
    'the folder does not exist': (
        "data_prefix=dict(seg_map_path='none')",
        'data not found: ',
    ),
    'the folder has no label': (
        "data_prefix=dict(seg_map_path='classes')",
        '16 of 16 labels of test_dataloader.dataset do not exist: ',
    ),
    'the labels are not loaded': (
        "pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='Resize', scale=(64, 64)), dict(type='PackSegInputs')]",
        NO_METRIC,
    ),
}


@pytest.mark.parametrize('dataset, message', NO_LABELS.values(), ids=NO_LABELS)
def test_label_maps_need_no_labels(
    tool, segmentor, workspace, capsys, dataset, message, tmp_path
):
    (workspace / 'no_labels.py').write_text(
        f"_base_ = 'segment.py'\ntest_dataloader = dict(dataset=dict({dataset}))"
    )
    args = [segmentor, '--work-dir', 'test', '--out']
    tool('test.py', 'no_labels.py', *args, tmp_path / 'maps')
    assert 'the images have no labels: no metric is computed' in capsys.readouterr().out
    tool('test.py', 'segment.py', *args, tmp_path / 'labeled')
    for k in range(16):
        with_labels, without = (
            np.asarray(Image.open(tmp_path / folder / f'{k:02}.png'))
            for folder in ('labeled', 'maps')
        )
        np.testing.assert_array_equal(without, with_labels)
    with pytest.raises(SystemExit) as error:
        tool('test.py', 'no_labels.py', *args, 'metrics.json')
    text = str(error.value)
    assert text.startswith(f'error: {message}') and '\n' not in text


def test_predictions_without_labels_and_with_augmentation(
    tool, segmentor, workspace, tmp_path
):
    for out in ('maps', 'a.pkl'):
        tool(
            *('test.py', 'segment.py', segmentor, '--work-dir', 'test', '--tta'),
            *('--out', tmp_path / out, '--cfg-options'),
            'test_dataloader.dataset.data_prefix.seg_map_path=none',
        )
    items = load(tmp_path / 'a.pkl')
    assert len(items) == 16 and 'gt_sem_seg' not in items[0]
    # The files count the classes from 1, as the label files of ADE20K do.
    for k, item in enumerate(items):
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / f'maps/{k:02}.png')),
            item['pred_sem_seg']['data'].numpy()[0] + 1,
        )


def test_one_missing_label_is_an_error(tool, segmentor, workspace, tmp_path):
    shutil.copytree(workspace / 'annotations', tmp_path / 'labels')
    (tmp_path / 'labels/07.png').unlink()
    with pytest.raises(
        SystemExit, match='1 of 16 labels of .* does not exist: .*07.png'
    ):
        tool(
            *('test.py', 'segment.py', segmentor, '--out', tmp_path / 'maps'),
            '--cfg-options',
            f'test_dataloader.dataset.data_prefix.seg_map_path={tmp_path}/labels',
        )
    assert not (tmp_path / 'maps').exists()


def test_classification_writes_predictions_pictures_and_metrics(
    tool, classifier, workspace
):
    tool(
        'test.py',
        'classify.py',
        classifier,
        '--out',
        'predictions.pkl',
        '--show-dir',
        'drawn',
    )
    predictions = load(workspace / 'predictions.pkl')
    assert isinstance(predictions, list) and len(predictions) == 16
    assert predictions[0]['pred_score'].shape == (2,)
    assert len(list((workspace / 'drawn').glob('*.png'))) == 16
    top1 = 100 * np.mean([float(p['pred_label'] == p['gt_label']) for p in predictions])

    tool('test.py', 'classify.py', classifier, '--out', 'metrics.json')
    metrics = json.loads((workspace / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(top1)
    assert [item['name'] for item in metrics['classes']] == ['a', 'b']
    for k, item in enumerate(metrics['classes']):
        right = [int(p['pred_label']) == k for p in predictions if p['gt_label'] == k]
        assert item['accuracy'] == pytest.approx(100 * np.mean(right), abs=0.006)
        assert item['labeled'] == len(right) == 8
    tool(
        'test.py',
        'classify.py',
        classifier,
        '--tta',
        '--amp',
        '--out',
        'metrics.pkl',
        '--out-item',
        'metrics',
    )
    assert 'accuracy/top1' in load(workspace / 'metrics.pkl')


def test_worst_classifications_are_confident_mistakes(
    tool, json_of, classifier, workspace, tmp_path
):
    metrics = json_of(
        *('classify.py', classifier, '--worst', 10, '--show-dir', tmp_path / 'worst'),
        *('--confusion', tmp_path / 'c.csv'),
    )
    tool('test.py', 'classify.py', classifier, '--out', 'a.pkl')
    wrong = [
        (-100 * float(p['pred_score'].max()), p['img_path'])
        for p in load(workspace / 'a.pkl')
        if p['pred_label'] != p['gt_label']
    ]
    assert [item['image'] for item in metrics['worst']] == [
        path for _, path in sorted(wrong)[:10]
    ]
    assert all(item['label'] != item['prediction'] for item in metrics['worst'])
    assert os.listdir(tmp_path / 'worst') == ['worst.png']
    with open(tmp_path / 'c.csv', newline='') as file:
        rows = list(csv.reader(file))
    counts = np.array([row[1:] for row in rows[1:]], int)
    assert rows[0][1:] == ['a', 'b'] and counts.sum() == 16
    assert counts.sum() - counts.trace() == len(wrong)


def test_images_without_a_class_can_be_classified(
    tool, classifier, workspace, tmp_path
):
    options = [
        '--cfg-options',
        'test_dataloader.dataset.with_label=False',
        'test_dataloader.dataset.metainfo.classes=[a,b]',
    ]
    tool('test.py', 'classify.py', classifier, '--out', tmp_path / 'a.pkl', *options)
    items = load(tmp_path / 'a.pkl')
    assert len(items) == 16 and 'gt_label' not in items[0]
    with pytest.raises(
        SystemExit, match='error: the images of test_dataloader have no'
    ):
        tool('test.py', 'classify.py', classifier, *options)


def test_invalid_arguments_end_with_a_one_line_error(tool, segmentor, classifier):
    for message, args in [
        ('config not found', ['a.py', classifier]),
        ('checkpoint not found', ['classify.py', 'a.pth']),
        (
            'to a .pkl file',
            ['classify.py', classifier, '--out', 'a.json', '--out-item', 'pred'],
        ),
        (
            'metrics go to a .json',
            ['classify.py', classifier, '--out', 'a', '--out-item', 'metrics'],
        ),
        ('give --out too', ['classify.py', classifier, '--out-item', 'metrics']),
        (
            'the config is not one of segmentation',
            ['classify.py', classifier, '--out', 'folder'],
        ),
        (
            '--worst needs a place to write to',
            ['classify.py', classifier, '--worst', '3'],
        ),
        (
            '--worst 0: expected a positive number',
            ['classify.py', classifier, '--worst', '0', '--out', 'a.json'],
        ),
        (
            "--confusion 'a.pdf' ends in '.pdf': give a .png file",
            ['classify.py', classifier, '--confusion', 'a.pdf'],
        ),
        (
            "cannot write to '/proc'",
            ['classify.py', classifier, '--out', '/proc/a.json'],
        ),
        (
            "cannot write to '",
            ['classify.py', classifier, '--confusion', 'segment.py/a/b.csv'],
        ),
        ('there is nothing to test', ['pretrain.py', classifier]),
        (
            "data not found: 'nowhere'",
            [
                'classify.py',
                classifier,
                '--cfg-options',
                'test_dataloader.dataset.data_root=nowhere',
            ],
        ),
        ('; not in the checkpoint: ', ['classify.py', segmentor]),
        (
            'other shape: backbone.',
            [
                'classify.py',
                classifier,
                '--cfg-options',
                'model.backbone.arch.embed_dims=24',
            ],
        ),
    ]:
        with pytest.raises(SystemExit) as error:
            tool('test.py', *args)
        text = str(error.value)
        assert message in text and text.startswith('error: ')
        assert '\n' not in text
