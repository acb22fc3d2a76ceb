"""The example of docs/export.md segments a picture where torch cannot be imported."""

import re
import subprocess
import sys
from pathlib import Path

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
