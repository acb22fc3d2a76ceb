"""The examples of docs/using_a_model.md run as they are written."""

import re
import runpy
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import trained
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/using_a_model.md').read_text()


def section(name):
    return PAGE.split(f'\n## {name}\n')[1].split('\n## ')[0]


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """What the page calls by name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work_dirs/streets').mkdir(parents=True)
    trained.write(trained.segmentation(), 'work_dirs/streets/iter_8000.pth')
    Path('work_dirs/streets/last_checkpoint').write_text('iter_8000.pth')
    array = np.random.randint(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(array).save('street.jpg')
    fourcc = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter('drive.mp4', fourcc, 10, (64, 48))
    for _ in range(3):
        writer.write(array)
    writer.release()
    return dict(
        array=array, picture=Image.open('street.jpg'), frames=lambda: [array] * 2
    )


def test_the_python_examples(streets, monkeypatch, capsys):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    blocks = re.findall(
        r'```python\n(.*?)```', section('Python') + section('Video'), re.S
    )
    assert len(blocks) == 4
    for block in blocks:
        exec(block, streets)
    assert [result.labels.shape for result in streets['results']] == 3 * [(48, 64)]
    assert streets['model'].classes == trained.CLASSES
    # The shares of two frames of a camera and of three of a video.
    assert capsys.readouterr().out.count('[') == 5


def test_the_commands(streets, monkeypatch):
    commands = re.findall(r'^    (python (?:.*\\\n)*.*)$', section('Video'), re.M)
    assert len(commands) == 1
    _, path, *words = shlex.split(commands[0])
    monkeypatch.syspath_prepend(ROOT / 'tools')
    monkeypatch.setattr('sys.argv', [path, *words, '--device', 'cpu'])
    runpy.run_path(str(ROOT / path), run_name='__main__')
    assert Path('predictions/overlay/drive.mp4').exists()


def test_large_pictures(streets, monkeypatch, capsys):
    rasterio = pytest.importorskip('rasterio')
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    values = np.random.randint(0, 256, (3, 150, 190), np.uint8)
    transform = rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
    options = dict(width=190, height=150, count=3, dtype='uint8', transform=transform)
    with rasterio.open('city.tif', 'w', driver='GTiff', **options) as file:
        file.write(values)
    text = section('Large pictures')
    (block,) = re.findall(r'```python\n(.*?)```', text, re.S)
    exec(block, streets)
    commands = re.findall(r'^    (python .*)$', text, re.M)
    assert len(commands) == 2
    monkeypatch.syspath_prepend(ROOT / 'tools')
    for command in commands:
        _, path, *words = shlex.split(command)
        words += ['--existing', 'overwrite', '--device', 'cpu']
        monkeypatch.setattr('sys.argv', [path, *words])
        runpy.run_path(str(ROOT / path), run_name='__main__')
    labels = []
    for name in ('predictions/city.tif', 'predictions/labels/city.tif'):
        with rasterio.open(name) as file:
            assert file.shape == (150, 190) and file.transform == transform
            labels.append(file.read(1))
    assert np.array_equal(*labels)
