"""The example of docs/export.md segments a picture where torch cannot be imported."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import trained
from PIL import Image

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.exporting import Request, export_model

PAGE = Path(__file__).parents[2] / 'docs' / 'export.md'
(CODE,) = re.findall(
    r'^```python\n(# segment\.py\n.*?)^```$', PAGE.read_text(), re.M | re.S
)
WITHOUT_TORCH = (
    'import runpy, sys; sys.modules.update(torch=None, mmengine=None, mmseg=None);'
    'sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name="__main__")'
)


TRANSFORMER = dict(
    type='SegmenterMaskTransformerHead',
    in_channels=24,
    channels=24,
    embed_dims=24,
    num_layers=1,
    num_heads=3,
    num_classes=4,
    dropout_ratio=0.0,
)


def labels_of_torch(model, picture, size):
    """Resize the picture, let the model label it, and resize the labels back."""
    resized = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    image = torch.from_numpy(resized[..., ::-1].copy()).permute(2, 0, 1)
    data = model.model.data_preprocessor(dict(inputs=[image]))
    with torch.no_grad():
        (sample,) = model.model(data['inputs'], None, mode='predict')
    labels = sample.pred_sem_seg.data[0].numpy().astype(np.uint8)
    return Image.fromarray(labels).resize(picture.size, Image.Resampling.NEAREST)


def test_example_segments_a_picture_without_torch(tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    (tmp_path / 'segment.py').write_text(CODE)
    config = trained.segmentation()
    config.model.decode_head = TRANSFORMER
    model = load_model(trained.write(config, tmp_path / 'a.pth'), device='cpu')
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize((130, 90), Image.Resampling.BICUBIC)
    picture.save(tmp_path / 'photo.png')
    out = str(tmp_path / 'model.onnx')
    export_model(model, Request(out, dynamic=True), log=lambda _: None)
    command = [sys.executable, '-c', WITHOUT_TORCH, 'segment.py', out]
    done = subprocess.run(
        [*command, 'photo.png', 'labels.png'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = Image.open(tmp_path / 'labels.png')
    expected = np.asarray(labels_of_torch(model, picture, (96, 64)))
    np.testing.assert_array_equal(np.asarray(result), expected)
    assert result.getpalette()[:12] == np.ravel(trained.PALETTE).tolist()
    found = np.unique(expected)
    assert len(found) > 1
    for number in found:
        assert f'{number} {trained.CLASSES[number]} ' in done.stdout


@pytest.mark.parametrize('number', [256, 300])
def test_example_writes_many_classes(tmp_path, monkeypatch, number):
    about = dict(size=[20, 30], dynamic=False, order=[0, 1, 2], mean=[0] * 3)
    about |= dict(std=[1] * 3, classes=list(map(str, range(number))))
    about['palette'] = [[k % 256, k // 256, 7] for k in range(number)]
    labels = np.arange(number - 600, number).clip(0).reshape(20, 30)
    meta = SimpleNamespace(custom_metadata_map=dict(mmmaskdistill=json.dumps(about)))
    session = SimpleNamespace(get_modelmeta=lambda: meta, run=lambda *_: [labels[None]])
    stub = SimpleNamespace(InferenceSession=lambda path: session)
    monkeypatch.setitem(sys.modules, 'onnxruntime', stub)
    picture, target = str(tmp_path / 'photo.png'), str(tmp_path / 'labels.png')
    Image.new('RGB', (30, 20)).save(picture)
    monkeypatch.setattr(sys, 'argv', ['segment.py', 'a.onnx', picture, target])
    exec(CODE, {})
    result = Image.open(target)
    np.testing.assert_array_equal(np.asarray(result), labels)
    assert (result.mode == 'P') == (number <= 256)
