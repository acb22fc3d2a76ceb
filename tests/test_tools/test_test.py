"""tools/test.py on segmentation and classification configs."""

import glob
import json

import numpy as np
import pytest
import torch
from mmengine import load
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import mmmaskdistill  # noqa: F401


@pytest.fixture(scope='module')
def classifier(workspace):
    """A checkpoint of the classification config."""
    cfg = Config.fromfile(workspace / 'classify.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    path = workspace / 'classifier.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def test_segmentation_writes_label_maps_pictures_and_metrics(
    tool, segmentor, workspace
):
    tool(
        'test.py',
        'segment.py',
        segmentor[0],
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

    tool(
        'test.py',
        'segment.py',
        segmentor[0],
        '--work-dir',
        'test',
        '--tta',
        '--out',
        'metrics.json',
    )
    metrics = json.loads((workspace / 'metrics.json').read_text())
    assert 0 <= metrics['mIoU'] <= 100


def test_two_processes_have_the_metrics_of_one(tool, run, segmentor, workspace):
    args = ['--work-dir', 'test', '--out']
    run('dist_test.sh', 'segment.py', segmentor[0], 2, *args, 'two.json')
    tool('test.py', 'segment.py', segmentor[0], *args, 'one.json')
    one, two = (
        json.loads((workspace / f'{name}.json').read_text()) for name in ('one', 'two')
    )
    assert one['mIoU'] == two['mIoU'] and one['aAcc'] == two['aAcc']


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
    assert len(predictions) == 16
    assert predictions[0]['pred_score'].shape == (2,)
    assert len(list((workspace / 'drawn').glob('*.png'))) == 16
    top1 = 100 * np.mean([float(p['pred_label'] == p['gt_label']) for p in predictions])

    tool('test.py', 'classify.py', classifier, '--out', 'metrics.json')
    metrics = json.loads((workspace / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(top1)
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
            'no metric of the config writes label maps',
            ['classify.py', classifier, '--out', 'folder'],
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
        ('; not in the checkpoint: ', ['classify.py', segmentor[0]]),
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
