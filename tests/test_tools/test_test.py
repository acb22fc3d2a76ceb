"""tools/test.py on both kinds of config."""

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
def classifier(place):
    """A checkpoint of the classification config."""
    cfg = Config.fromfile(place / 'classify.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    path = place / 'classifier.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def test_segmentation(tool, segmentor, place):
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
    maps = sorted(glob.glob(str(place / 'maps/*.png')))
    assert len(maps) == 16
    assert np.asarray(Image.open(maps[0])).shape == (80, 96)
    assert len(glob.glob(str(place / 'pictures/**/*.png'), recursive=True)) == 16

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
    metrics = json.loads((place / 'metrics.json').read_text())
    assert 0 <= metrics['mIoU'] <= 100


def test_two_processes_evaluate_as_one(tool, run, segmentor, place):
    args = ['--work-dir', 'test', '--out']
    run('dist_test.sh', 'segment.py', segmentor[0], 2, *args, 'two.json')
    tool('test.py', 'segment.py', segmentor[0], *args, 'one.json')
    one, two = (
        json.loads((place / f'{name}.json').read_text()) for name in ('one', 'two')
    )
    assert one['mIoU'] == two['mIoU'] and one['aAcc'] == two['aAcc']


def test_classification(tool, classifier, place):
    tool(
        'test.py',
        'classify.py',
        classifier,
        '--out',
        'predictions.pkl',
        '--show-dir',
        'drawn',
    )
    predictions = load(place / 'predictions.pkl')
    assert len(predictions) == 16
    assert predictions[0]['pred_score'].shape == (2,)
    assert len(list((place / 'drawn').glob('*.png'))) == 16
    top1 = 100 * np.mean([float(p['pred_label'] == p['gt_label']) for p in predictions])

    tool('test.py', 'classify.py', classifier, '--out', 'metrics.json')
    metrics = json.loads((place / 'metrics.json').read_text())
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
    assert 'accuracy/top1' in load(place / 'metrics.pkl')


def test_what_cannot_work_ends_with_one_line(tool, segmentor, classifier):
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
