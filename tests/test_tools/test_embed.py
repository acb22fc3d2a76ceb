"""tools/embed.py from the command line."""

import os

import numpy as np
import pytest
import timm
import torch
from helpers import trained
from PIL import Image

from mmmaskdistill.apis import load_embedder


@pytest.fixture
def weights(workspace):
    """Weights of timm's test_vit."""
    torch.manual_seed(0)
    torch.save(timm.create_model('test_vit').state_dict(), workspace / 'vit.pth')
    return workspace / 'vit.pth'


def test_features_and_pictures_are_written(tool, workspace, weights, capsys):
    tool(
        'embed.py', 'timm:test_vit', 'images/*', '--weights', weights, '--out', 'f.npy',
        '--what', 'mean', 'patches', '--layer', '0', '-1', '--norm', 'all', '--half',
        '--size', '32', '48', '--pca', 'colors', '--num-workers', '0',
        '--device', 'cpu',
    )  # fmt: skip
    kinds = ['mean_0', 'mean_5', 'patches_0', 'patches_5']
    embedder = load_embedder(
        'timm:test_vit', str(weights), layers=[0, 5], norm='all', size=(32, 48),
        device='cpu',
    )  # fmt: skip
    names = (workspace / 'f.names.txt').read_text().split()
    assert names == [f'{i:02}.jpg' for i in range(16)]
    paths = [str(workspace / 'images' / name) for name in names]
    for key, values in embedder(paths, ['mean', 'patches']).items():
        kinds.remove(key)
        found = np.load(workspace / f'f.{key}.npy')
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, values, rtol=2e-3, atol=1e-3)
    assert not kinds
    pictures = sorted(os.listdir(workspace / 'colors'))
    assert pictures == [f'{i:02}.png' for i in range(16)]
    assert Image.open(workspace / 'colors/00.png').size == (2 * 48 + 8, 32)
    out = capsys.readouterr().out
    assert '16 rows in f.mean_0.npy, f.mean_5.npy' in out
    assert '16 pictures in colors' in out


def test_a_broken_image_is_named_and_the_status_is_1(tool, workspace, capsys):
    path = trained.write(trained.classification(), workspace / 'classify.pth')
    folder = workspace / 'some'
    folder.mkdir()
    for name in ('a.jpg', 'c.jpg'):
        Image.effect_noise((64, 64), 50).save(folder / name)
    (folder / 'b.jpg').write_text('no image')
    with pytest.raises(SystemExit) as caught:
        tool(
            'embed.py', path, 'some', '--out', 'g.npz', '--device', 'cpu',
            '--num-workers', '0',
        )  # fmt: skip
    assert caught.value.code == (
        'error: skipped b.jpg: it contains no image that can be decoded'
    )
    with np.load(workspace / 'g.npz') as found:
        assert found['names'].tolist() == ['a.jpg', 'c.jpg']
        assert found['cls'].shape == (2, 24)


@pytest.mark.parametrize(
    'args, message',
    [
        (['a.pth', 'images', '--out', 'a.csv'], "'a.csv': expected a file that ends"),
        (['a.pth', 'images', '--out', 'a.npz'], "'a.pth'"),
        (
            ['a.pth', 'images', '--out', 'a.npz', '--weights', 'b.pth'],
            "--weights 'b.pth': only a model of timm needs them",
        ),
        (
            ['timm:test_vit', 'images', '--out', 'a.npz', '--config', 'c.py'],
            "--config 'c.py': timm:test_vit has no config",
        ),
        (
            ['timm:test_vit', 'images', '--out', 'a.npz', '--batch-size', '0'],
            '--batch-size 0 --num-workers 2: expected at least 1 and at least 0',
        ),
    ],
)
def test_mistakes_are_one_line(tool, args, message):
    with pytest.raises(SystemExit) as caught:
        tool('embed.py', *args)
    text = str(caught.value.code)
    assert text.startswith('error: ') and '\n' not in text and message in text
