"""tools/predict.py --tile writes label maps of large pictures."""

import numpy as np
import pytest
import torch
from helpers import trained
from PIL import Image

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.inference import predicting
from mmmaskdistill.apis.inference.tiling import predict_large


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('models')
    for name in ('segmentation', 'classification'):
        trained.write(getattr(trained, name)(), folder / f'{name}.pth')
    return folder


@pytest.fixture
def predict(tool, models, tmp_path, monkeypatch):
    def predict(name, *args):
        monkeypatch.chdir(tmp_path)
        tool('predict.py', models / f'{name}.pth', *args, '--device', 'cpu')

    return predict


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (('a.png', (150, 90)), ('sub/b.jpg', (70, 130))):
        path = tmp_path / 'data' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize(size, Image.BICUBIC).save(path)
    return tmp_path / 'data'


def test_label_maps_have_the_pictures_own_size(predict, models, data, tmp_path, capsys):
    model = load_model(models / 'segmentation.pth', device='cpu')
    for number, (arguments, scale) in enumerate(
        ((('--tile',), 1), (('--tile', '0.6', '--batch-size', '3'), 0.6))
    ):
        out = tmp_path / f'out{number}'
        predict('segmentation', 'data', '--out', out, *arguments)
        assert '2 images in' in capsys.readouterr().out
        for name in ('a.png', 'sub/b.jpg'):
            expected = tmp_path / 'expected.png'
            predict_large(model, data / name, expected, scale=scale)
            written = out / 'labels' / f'{name[:-4]}.png'
            assert np.array_equal(
                np.asarray(Image.open(written)), np.asarray(Image.open(expected))
            )
            assert Image.open(written).size == Image.open(data / name).size
        assert sorted(path.name for path in out.iterdir()) == ['classes.json', 'labels']


def test_tiffs_become_tiffs_and_broken_ones_are_skipped(
    predict, data, tmp_path, capsys
):
    rasterio = pytest.importorskip('rasterio')
    transform = rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
    with rasterio.open(
        data / 'c.tif',
        'w',
        driver='GTiff',
        **dict(height=100, width=80, count=3, dtype='uint8', nodata=0),
        **dict(crs='EPSG:32633', transform=transform),
    ) as file:
        values = np.random.default_rng(0).integers(1, 255, (3, 100, 80), np.uint8)
        values[:, :50] = 0
        file.write(values)
    content = (data / 'c.tif').read_bytes()
    (data / 'broken.tif').write_bytes(content[:-9000])
    with pytest.raises(SystemExit) as error:
        predict('segmentation', 'data', '--out', 'out', '--tile', '--save', 'labels')
    assert str(error.value).startswith(
        "error: 1 of 4 files were skipped: cannot load the image 'data/broken.tif'"
    )
    written = sorted(path.name for path in (tmp_path / 'out/labels').iterdir())
    assert written == ['a.png', 'c.tif', 'sub']
    with rasterio.open(tmp_path / 'out/labels/c.tif') as file:
        assert file.transform == transform and file.crs == 'EPSG:32633'
        labels = file.read(1)
    assert (labels[:50] == 255).all() and labels[50:].max() < 4
    with pytest.raises(SystemExit, match=r'3 files to write are already there'):
        predict('segmentation', 'data', '--out', 'out', '--tile')


@pytest.mark.parametrize(
    'model, arguments, message',
    [
        (
            'segmentation',
            ['data', '--tile', '--save', 'overlay', 'labels', 'probabilities'],
            'error: --save overlay probabilities: --tile writes labels alone',
        ),
        (
            'segmentation',
            ['data', '--tile', '--tta'],
            'error: --tta: expected without --tile, which has no test-time '
            'augmentation',
        ),
        (
            'classification',
            ['data', '--tile'],
            "error: the model's task is classification: expected segmentation, the "
            'only one that is done in tiles',
        ),
        (
            'segmentation',
            ['film.mp4', '--tile'],
            "error: 'film.mp4' are videos: expected pictures, which alone are "
            'segmented in tiles',
        ),
    ],
)
def test_what_has_no_tiles_is_refused(predict, data, model, arguments, message):
    (data.parent / 'film.mp4').write_bytes(b'film')
    with pytest.raises(SystemExit) as error:
        predict(model, *arguments, '--out', 'out')
    assert str(error.value) == message
    assert not (data.parent / 'out').exists()


@pytest.mark.parametrize('scale', ['data', '0', '-1', 'nan', 'inf'])
def test_a_wrong_scale_is_named(predict, data, scale, capsys):
    with pytest.raises(SystemExit):
        predict('segmentation', 'data', '--out', 'out', f'--tile={scale}')
    assert capsys.readouterr().err.endswith(
        f'argument --tile: {scale!r} is no factor, such as 0.5 (put --tile without a '
        'factor behind the inputs, or before another option)\n'
    )


def test_a_picture_that_the_model_fails_on_is_skipped(predict, data, monkeypatch):
    def fail_once(model, path, *args, **options):
        if path.endswith('a.png'):
            raise RuntimeError('too narrow\nby far')
        return predict_large(model, path, *args, **options)

    monkeypatch.setattr(predicting, 'predict_large', fail_once)
    with pytest.raises(SystemExit) as error:
        predict('segmentation', 'data', '--out', 'out', '--tile')
    assert str(error.value) == (
        'error: 1 of 2 files were skipped: the model fails on the tiles of '
        "'data/a.png': RuntimeError: too narrow"
    )
