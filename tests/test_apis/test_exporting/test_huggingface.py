"""Folders in Hugging Face's layout load everywhere, and their cards are honest."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from helpers import trained
from markdown_it import MarkdownIt
from PIL import Image
from transformers import AutoImageProcessor, BeitForImageClassification, BeitModel

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.exporting import (
    check_push,
    push_folder,
    read_metrics,
    write_folder,
)
from mmmaskdistill.errors import ConfigError


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Work dirs of a segmentor, a classifier and a student."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp('runs')
    for name in ('segmentation', 'classification', 'pretraining'):
        config = getattr(trained, name)()
        config.train_cfg = dict(max_iters=20)
        config.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
        (root / name).mkdir()
        trained.write(config, root / name / 'iter_20.pth')
    log = root / 'segmentation/2026/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [
        dict(lr=1e-3, loss=2.0, iter=20, step=20),
        dict(mIoU=11.0, aAcc=22.0, time=0.1, data_time=0.1, step=10),
        dict(mIoU=33.5, aAcc=44.0, time=0.1, data_time=0.1, step=20),
    ]
    log.write_text('\n'.join(map(json.dumps, lines)) + '\n{"mIoU": 9')
    return root


def write(runs, name, out, **options):
    path = str(runs / name / 'iter_20.pth')
    model = load_model(path, device='cpu')
    lines = write_folder(model, str(out), path, **options)
    return model, lines


def images(size):
    """Normalized images."""
    return torch.randn(2, 3, *size)


@pytest.mark.parametrize('name', ['segmentation', 'classification', 'pretraining'])
def test_the_folder_is_the_model(runs, tmp_path, name):
    model, lines = write(runs, name, tmp_path / 'folder')
    shutil.move(tmp_path / 'folder', tmp_path / 'elsewhere')
    back = load_model(tmp_path / 'elsewhere', device='cpu')
    assert (back.classes, back.palette) == (model.classes, model.palette)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    first, second = model.predict(picture), back.predict(picture)
    for key, value in vars(first).items():
        if isinstance(value, np.ndarray) and key != 'source':
            np.testing.assert_array_equal(value, getattr(second, key))
    facts = json.loads((tmp_path / 'elsewhere/config.json').read_text())
    assert facts['task'] == name and facts['mean'] == [124, 116, 104]
    assert f"load_model('{tmp_path / 'folder'}')" in '\n'.join(lines)
    assert not list(tmp_path.glob('.export-*'))


def test_timm_and_transformers_open_the_backbone(runs, tmp_path):
    model, _ = write(runs, 'pretraining', tmp_path)
    x = images((64, 64))
    with torch.no_grad():
        (maps,) = model.model.backbone(x)
        expected = maps.flatten(2).mT
        other = timm.create_model(f'local-dir:{tmp_path}/timm', pretrained=True).eval()
        given = other.forward_features(x)[:, 1:]
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
        other = BeitModel.from_pretrained(tmp_path / 'transformers').eval()
        given = other(x).last_hidden_state[:, 1:]
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    mean = timm.data.resolve_model_data_config(
        timm.create_model(f'local-dir:{tmp_path}/timm', pretrained=True)
    )['mean']
    np.testing.assert_allclose(mean, np.array([124, 116, 104]) / 255)


def test_timm_and_transformers_open_the_classifier(runs, tmp_path):
    model, _ = write(runs, 'classification', tmp_path)
    x = images((64, 64))
    with torch.no_grad():
        expected = model.model(x, mode='tensor')
        other = timm.create_model(f'local-dir:{tmp_path}/timm', pretrained=True).eval()
        torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-4)
        other = BeitForImageClassification.from_pretrained(tmp_path / 'transformers')
        logits = other.eval()(x).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert other.config.id2label == dict(enumerate(trained.CLASSES))
    # What both say about images resizes and crops as the config does.
    rows, columns = np.mgrid[:150, :110]
    picture = np.stack([rows, columns, 250 - rows], 2).astype(np.uint8)
    sample = model.preprocess(picture)
    expected = model.model.data_preprocessor(
        dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    )['inputs']
    config = timm.data.resolve_model_data_config(
        timm.create_model(f'local-dir:{tmp_path}/timm', pretrained=True)
    )
    assert config['interpolation'] == 'bilinear'
    transform = timm.data.create_transform(**config, is_training=False)
    found = transform(Image.fromarray(picture))[None]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    processor = AutoImageProcessor.from_pretrained(tmp_path / 'transformers')
    found = processor(Image.fromarray(picture), return_tensors='pt').pixel_values
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize('name', ['nearest', None])
def test_timm_and_transformers_resize_without_a_crop_as_the_config_does(name, tmp_path):
    config = trained.classification()
    options = dict(interpolation=name) if name else {}
    pipeline = config.test_dataloader.dataset.pipeline
    pipeline[1:3] = [dict(type='Resize', scale=(64, 64), **options)]
    path = trained.write(config, tmp_path / 'a.pth')
    folder = tmp_path / 'folder'
    write_folder(load_model(path, device='cpu'), str(folder), str(path))
    timm_config = json.loads((folder / 'timm/config.json').read_text())
    found = timm_config['pretrained_cfg']
    expected = name or 'bilinear'
    assert (found['crop_pct'], found['interpolation']) == (1.0, expected)
    processor = folder / 'transformers/preprocessor_config.json'
    processor = json.loads(processor.read_text())
    assert processor['resample'] == Image.Resampling[expected.upper()]
    assert not processor['do_center_crop']


def test_card_says_what_is_known_and_what_is_not(runs, tmp_path):
    write(runs, 'segmentation', tmp_path / 'a')
    card = (tmp_path / 'a/README.md').read_text()
    assert card.startswith('---\nlibrary_name: mmmaskdistill\npipeline_tag: image-seg')
    assert '| mIoU | 33.5 |\n| aAcc | 44 |' in card and 'data_time' not in card
    assert 'Metrics of the validation during training' in card
    assert 'licence of these weights is not stated' in card and 'license:' not in card
    assert '| length | 20 iterations, as configured |' in card
    assert '| data | not known |' in card  # the config has no train_dataloader
    assert '| started from | `student.pth` |' in card
    assert 'The 4 classes are: 0 sky, 1 tree, 2 road, 3 car.' in card
    assert '/elsewhere' not in card and str(runs) not in card

    metrics = dict(mIoU=50.123)
    write(runs, 'segmentation', tmp_path / 'b', metrics=metrics, license='mit')
    card = (tmp_path / 'b/README.md').read_text()
    assert '| mIoU | 50.12 |' in card and '33.5' not in card
    assert card.startswith('---\nlicense: "mit"') and 'weights is mit.' in card

    write(runs, 'classification', tmp_path / 'c')
    card = (tmp_path / 'c/README.md').read_text()
    assert 'No metrics were given for this card' in card


def test_card_shows_odd_names_as_they_are(tmp_path):
    names = ['a\nb', '# *c* | _d_', '<b>&amp; `e`', '[f](g)\\ h_i $j$ ~~k~~\x00l']
    config = trained.segmentation()
    config.train_dataloader = dict(
        dataset=dict(type='BaseSegDataset', data_root='/x/d`|a\nta', pipeline=[])
    )
    path = trained.write(config, tmp_path / 'a|`b.pth', dict(classes=names))
    folder = tmp_path / '# _t_ #'
    write_folder(
        load_model(path, device='cpu'),
        str(folder),
        str(path),
        {'single_class/m_IoU|*': 1.0},
        'my\n# licence',
    )
    lines, code = [], []
    for token in (
        MarkdownIt().enable('table').parse((folder / 'README.md').read_text('utf-8'))
    ):
        texts = []
        for part in token.children or []:
            assert part.type in ('text', 'code_inline', 'softbreak', 'text_special')
            texts.append(part.content)
            code += [part.content] if part.type == 'code_inline' else []
        lines.append(''.join(texts))
    shown = 'a b, 1 # *c* | _d_, 2 <b>&amp; `e`, 3 [f](g)\\ h_i $j$ ~~k~~ l.'
    assert f'The 4 classes are: 0 {shown}' in lines
    assert {'# _t_ #', 'single_class/m_IoU|*'} <= set(lines)
    assert 'The licence of these weights is my # licence.' in lines
    assert {'a|`b.pth', 'd`|a ta'} <= set(code)


def test_metrics_are_the_numbers_of_a_json_file(tmp_path):
    path = tmp_path / 'm.json'
    path.write_text(json.dumps({'mIoU': 5, 'classes': {'sky': 1.0}, 'n': True}))
    assert read_metrics(str(path)) == {'mIoU': 5.0}
    for text, message in [
        ('{"a": []}', 'has no metrics'),
        ('[1]', 'has no metrics'),
        ('{', 'cannot be read'),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_metrics(str(path))
    with pytest.raises(ConfigError, match='cannot be read'):
        read_metrics(str(tmp_path / 'no.json'))


def test_push_calls_the_hub(tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo, private, exist_ok):
            calls.append((repo, private, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, folder_path))
            return SimpleNamespace(commit_url='https://hub/commit/1')

    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    line = push_folder(str(tmp_path), 'me/model', private=True)
    assert calls == [('me/model', True, True), ('me/model', str(tmp_path))]
    assert line == 'uploaded: https://hub/commit/1'

    def fail(*args, **kwargs):
        raise ConnectionError('no route\nto host')

    monkeypatch.setattr(Api, 'create_repo', fail)
    with pytest.raises(ConfigError, match=r'no route\). Check the network') as error:
        push_folder(str(tmp_path), 'me/model')
    assert '\n' not in str(error.value)


def test_push_is_refused_beforehand(monkeypatch):
    with pytest.raises(ConfigError, match="'model': expected USER/NAME"):
        check_push('model')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ConfigError, match='HF_HUB_OFFLINE is set'):
        check_push('me/model')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: None)
    with pytest.raises(ConfigError, match='no token.*hf auth login'):
        check_push('me/model')
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: 'secret')
    check_push('me/model')
