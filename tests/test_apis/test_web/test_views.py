"""What a model says about a picture, as HTML."""

import base64
import html
import io
import json
import re
import sys

import numpy as np
import pytest
from helpers import trained
from PIL import Image

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.web import views
from mmmaskdistill.apis.web.page import HINT, example_pictures, import_gradio, respond
from mmmaskdistill.apis.web.pictures import Share
from mmmaskdistill.apis.web.views import describe, feature_colors, legend, message, view
from mmmaskdistill.errors import ConfigError


@pytest.fixture
def path(tmp_path):
    """A picture of smooth colors, 80 x 120."""
    colors = np.random.randint(0, 256, (5, 6, 3), dtype=np.uint8)
    path = str(tmp_path / 'picture.png')
    Image.fromarray(colors).resize((120, 80), Image.BICUBIC).save(path)
    return path


def load(config, folder, name='model.pth'):
    return load_model(trained.write(config, folder / name), device='cpu')


def images(text):
    """The images in HTML by their classes."""
    found = re.findall('<img class="mmd-(.*?)".*?base64,(.*?)"', text)
    return [
        (name, np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))))
        for name, content in found
    ]


def test_a_segmentation_has_its_colors_labels_and_shares(tmp_path, path):
    model = load(trained.segmentation(), tmp_path)
    picture = np.asarray(Image.open(path))
    text = view(model, 'my <model>', path, picture)
    assert '<h2>my &lt;model&gt;</h2>' in text
    result = model.predict(path)
    (_, base), (_, colors), (_, labels), (_, under), (_, features) = images(text)
    np.testing.assert_array_equal(base, picture)
    np.testing.assert_array_equal(under, picture)
    np.testing.assert_array_equal(colors, result.colors())
    np.testing.assert_array_equal(labels[..., 0], result.labels)
    assert not labels[..., 1:].any()
    np.testing.assert_array_equal(features, feature_colors(model, path))
    names = json.loads(html.unescape(re.search('data-names="(.*?)"', text)[1]))
    assert names == list(trained.CLASSES)
    largest = int(result.shares().argmax())
    row = re.search('mmd-name">(.*?)<.*?mmd-number">(.*?)<', text)
    assert row[1] == trained.CLASSES[largest]
    assert row[2] == f'{100 * result.shares()[largest]:.1f} %'


def test_features_have_the_patch_grid_and_the_colors_of_their_components(
    tmp_path, path
):
    model = load(trained.pretraining(), tmp_path)
    colors = feature_colors(model, path)
    assert colors.shape == (4, 4, 3) and colors.dtype == np.uint8
    assert colors.min() == 0 and colors.max() == 255
    text = view(model, 'student', path, np.asarray(Image.open(path)))
    assert [name for name, _ in images(text)] == ['picture', 'overlay']
    assert describe(model).startswith('pretraining, MaskDistillViT, 0.0 million')


def test_a_classifier_has_its_scores(tmp_path, path):
    model = load(trained.classification(), tmp_path)
    text = view(model, 'classifier', path, np.asarray(Image.open(path)))
    # Under its features is what it sees: the middle, resized from 80 to 70 pixels.
    (_, seen), _ = images(text)
    assert seen.shape == (64, 64, 3)
    expected = Image.open(path).resize((105, 70), Image.BILINEAR).crop((20, 3, 84, 67))
    assert abs(seen.astype(int) - np.asarray(expected)).mean() < 2
    rows = re.findall('mmd-name">(.*?)<.*?mmd-number">(.*?)<', text)
    expected = [
        (name, f'{100 * score:.1f} %') for name, score in model.predict(path).top()
    ]
    assert rows == expected and len(rows) == 4
    assert describe(model).endswith(', 4 classes')


def test_a_model_may_have_no_patch_features(tmp_path, path, monkeypatch):
    model = load(trained.classification(), tmp_path)
    monkeypatch.setattr(model, 'predict', lambda path: _Scores)
    monkeypatch.setattr(views, 'embedder_of', _no_features)
    text = view(model, 'a', path, np.asarray(Image.open(path)))
    assert '<p>none: it has &lt;none&gt;</p>' in text and 'sky' in text


class _Scores:
    def top(number):
        return [('sky', 1.0)]


def _no_features(model):
    raise ConfigError('it has <none>')


def test_a_legend_adds_up_small_classes_and_escapes_names():
    shares = [
        Share(i, f'<{i}>', (i, 0, 0), s) for i, s in enumerate((0.7, 0.2996, 4e-4))
    ]
    rows = re.findall(
        'background: (rgb.*?|transparent)">.*?mmd-name">(.*?)<.*?width: '
        '(.*?);.*?mmd-number">(.*?)<',
        legend(shares),
    )
    assert rows == [
        ('rgb(0, 0, 0)', '&lt;0&gt;', '70.0%', '70.0 %'),
        ('rgb(1, 0, 0)', '&lt;1&gt;', '30.0%', '30.0 %'),
        ('rgb(2, 0, 0)', '&lt;2&gt;', '0.0%', '&lt; 0.1 %'),
    ]
    text = legend(shares, rows=1)
    assert '2 more' in text and '30.0 %' in text and '&lt;1&gt;' not in text
    assert '<script>' not in message('<script>')


def test_an_answer_has_a_view_for_each_model_or_a_message(tmp_path, path):
    models = {name: load(trained.segmentation(), tmp_path, name) for name in 'ab'}
    note, *views = respond(models, path, 10_000)
    assert note == '' and ['<h2>a<' in views[0], '<h2>b<' in views[1]] == [True, True]
    assert respond(models, None, 10_000) == [HINT, '', '']
    note, *views = respond(models, path, 9_000)
    assert 'The picture has 120 x 80 pixels: expected at most 0.009 million' in note
    assert views == ['', '']
    (tmp_path / 'broken.jpg').write_text('no image')
    note, *views = respond(models, str(tmp_path / 'broken.jpg'), 9_000)
    assert 'This file cannot be shown: it contains no image' in note


def test_what_nobody_foresaw_is_logged_and_not_shown(
    tmp_path, path, monkeypatch, capsys
):
    model = load(trained.segmentation(), tmp_path)
    monkeypatch.setattr(model, 'predict', lambda path: {}['secret'])
    note, text = respond(dict(a=model), path, 10_000)
    assert text == '' and 'secret' not in note and 'could not be processed' in note
    assert "KeyError: 'secret'" in capsys.readouterr().err


def test_a_message_does_not_tell_the_servers_folders(tmp_path):
    # Of a picture that the model does not take: four channels
    model = load(trained.segmentation(channels=4, load=FOUR), tmp_path)
    path = str(tmp_path / 'rgb.png')
    Image.new('RGB', (64, 64)).save(path)
    note, _ = respond(dict(a=model), path, 10_000)
    assert 'channels' in note and 'rgb.png' in note and str(tmp_path) not in note


FOUR = dict(type='mmmaskdistill.LoadImage', channels=4)


def test_examples_are_test_images_or_a_photograph(tmp_path):
    config = trained.classification()
    (photograph,) = example_pictures(config)
    assert Image.open(photograph).size == (512, 600)
    dataset = config.test_dataloader.dataset
    for i in range(9):
        (tmp_path / f'data/{i % 3}').mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8)).save(tmp_path / f'data/{i % 3}/{i}.png')
    dataset.update(data_root=str(tmp_path), data_prefix=dict(img_path='data'))
    found = example_pictures(config, 3)
    assert [name[len(str(tmp_path)) :] for name in found] == [
        '/data/0/0.png',
        '/data/1/1.png',
        '/data/2/2.png',
    ]


def test_without_gradio_an_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ConfigError, match=r'pip install "mmmaskdistill\[web\]"'):
        import_gradio()
