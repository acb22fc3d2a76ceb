"""tools/predict.py writes what a model predicts for files of all kinds."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import trained
from PIL import Image

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.inference import predicting, videos


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('models')
    for name in ('segmentation', 'classification', 'pretraining'):
        trained.write(getattr(trained, name)(), folder / f'{name}.pth')
    return folder


@pytest.fixture
def data(tmp_path):
    """Images of one name in several folders and formats, and other files."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(
        ('a.png', 'a.jpg', 'b.bmp', 'sub/a.png', 'sub/deep/Ä c.PNG', 'other/a.png')
    ):
        path = tmp_path / 'data' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((40 + k, 30), Image.BICUBIC).save(path)
    (tmp_path / 'data/notes.md').write_text('no image')
    (tmp_path / 'data/.hidden.png').write_text('no image')
    return tmp_path / 'data'


@pytest.fixture
def predict(tool, models, tmp_path, monkeypatch):
    """Run the tool on the CPU; the paths are relative to the test's folder."""

    def predict(name, *args):
        monkeypatch.chdir(tmp_path)
        tool('predict.py', models / f'{name}.pth', *args, '--device', 'cpu')

    return predict


def files_in(folder):
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )


def test_folders_are_written_with_the_names_and_folders_in_them(
    predict, models, data, tmp_path, capsys
):
    out = tmp_path / 'out'
    predict('segmentation', data, '--out', out, '--batch-size', '2')
    assert files_in(out) == sorted(
        [
            'classes.json',
            'labels/a.jpg.png',
            'labels/a.png.png',
            'labels/b.png',
            'labels/other/a.png',
            'labels/sub/a.png',
            'labels/sub/deep/Ä c.png',
            'overlay/a.jpg.jpg',
            'overlay/a.png.jpg',
            'overlay/b.jpg',
            'overlay/other/a.jpg',
            'overlay/sub/a.jpg',
            'overlay/sub/deep/Ä c.jpg',
        ]
    )
    model = load_model(models / 'segmentation.pth', device='cpu')
    for given, written in (('a.jpg', 'a.jpg'), ('sub/deep/Ä c.PNG', 'sub/deep/Ä c')):
        result = model.predict(data / given)
        image = Image.open(out / f'labels/{written}.png')
        assert image.mode == 'P'
        np.testing.assert_array_equal(np.asarray(image), result.labels)
        np.testing.assert_array_equal(np.asarray(image.convert('RGB')), result.colors())
        overlay = np.asarray(Image.open(out / f'overlay/{written}.jpg')).astype(int)
        assert abs(overlay - result.overlay(0.5)).mean() < 6
    content = json.loads((out / 'classes.json').read_text())
    assert content['classes'] == list(trained.CLASSES)
    assert content['palette'] == trained.PALETTE
    text = capsys.readouterr().out
    assert 'left out: 1 .md' in text and '6 images in ' in text and ' images/s' in text


def test_inputs_of_one_name_never_overwrite_each_other(predict, data, tmp_path):
    twice = tmp_path / 'twice'
    shutil.copytree(data / 'sub', twice / 'one/sub')
    shutil.copytree(data / 'sub', twice / 'two/sub')
    inputs = [twice / 'one', twice / 'two', data / 'a.png', f'{data}/*/a.png']
    args = ['--save', 'labels', '--out', tmp_path / 'out']
    predict('segmentation', *inputs, data / 'a.png', *args)
    written = files_in(tmp_path / 'out/labels')
    assert (
        written
        == sorted(
            [
                'a.png',
                'one/sub/a.png.png',
                'one/sub/deep/Ä c.PNG.png',
                'two/sub/a.png.png',
                'two/sub/deep/Ä c.PNG.png',
                'sub/a.png',
                'other/a.png',
            ]
        )
        or len(written) == 7
    )


def test_lists_name_files_relative_to_themselves(predict, data, tmp_path):
    (data / 'list.txt').write_text('# comment\nsub/a.png\n\n' + str(data / 'b.bmp'))
    predict(
        'segmentation', data / 'list.txt', '--save', 'labels', '--out', tmp_path / 'o'
    )
    assert files_in(tmp_path / 'o/labels') == ['b.png', 'sub/a.png']


def test_probabilities_sum_up_to_one(predict, models, data, tmp_path):
    args = ['--save', 'probabilities', '--tta', '--amp', '--out', tmp_path / 'out']
    predict('segmentation', data / 'b.bmp', *args)
    assert files_in(tmp_path / 'out') == ['classes.json', 'probabilities/b.npy']
    array = np.load(tmp_path / 'out/probabilities/b.npy')
    assert array.shape == (4, 30, 42) and array.dtype == np.float16
    np.testing.assert_allclose(array.astype(np.float32).sum(0), 1, atol=2e-3)
    model = load_model(models / 'segmentation.pth', device='cpu')
    result = model.predict(data / 'b.bmp', tta=True, amp=True, probabilities=True)
    np.testing.assert_array_equal(array, result.probabilities.astype(np.float16))


def test_labels_of_many_classes_are_gray_pictures_of_16_bits(tool, data, tmp_path):
    meta = dict(classes=[f'class {i}' for i in range(300)])
    path = trained.write(trained.segmentation(300), tmp_path / 'a.pth', meta)
    args = ['--save', 'labels', '--out', tmp_path / 'out', '--device', 'cpu']
    tool('predict.py', path, data / 'b.bmp', *args)
    image = Image.open(tmp_path / 'out/labels/b.png')
    assert image.mode.startswith('I;16')
    labels = load_model(path, device='cpu').predict(data / 'b.bmp').labels
    assert labels.max() > 255
    np.testing.assert_array_equal(np.asarray(image), labels)


def test_broken_files_are_named_and_skipped(predict, data, tmp_path, capsys):
    (data / 'broken.jpg').write_text('no image')
    (data / 'sub/empty.png').touch()
    whole = (data / 'a.png').read_bytes()
    (data / 'sub/short.png').write_bytes(whole[: len(whole) // 2])
    out = tmp_path / 'out'
    with pytest.raises(SystemExit) as stop:
        predict('segmentation', data, '--out', out, '--batch-size', '3')
    message = str(stop.value)
    assert message.startswith('error: ') and 'of 9 files were skipped: ' in message
    assert '\n' not in message
    error = capsys.readouterr().err
    for name in ('broken.jpg', 'sub/empty.png'):
        assert f"skipped: cannot load the image '{data / name}': " in error
    written = files_in(out / 'labels')
    assert {'b.png', 'sub/a.png', 'other/a.png', 'a.jpg.png'} <= set(written)
    assert 'broken.png' not in written and 'sub/empty.png' not in written


def test_a_file_that_vanishes_is_skipped(tool, predict, data, tmp_path, monkeypatch):
    write = predicting.write_labels

    def vanish(labels, path, palette):
        write(labels, path, palette)
        (data / 'b.bmp').unlink(missing_ok=True)

    monkeypatch.setattr(predicting, 'write_labels', vanish)
    with pytest.raises(SystemExit, match='1 of 2 files were skipped: cannot load the'):
        predict('segmentation', data / 'b.bmp', data / 'a.png', '--out', tmp_path / 'o')
    assert files_in(tmp_path / 'o/overlay') == ['a.jpg']


def test_what_is_there_already_is_kept_unless_asked(predict, data, tmp_path, capsys):
    args = [data, '--out', tmp_path / 'out', '--save', 'labels']
    predict('segmentation', *args)
    target = tmp_path / 'out/labels/b.png'
    target.write_bytes(b'mine')
    with pytest.raises(SystemExit, match=r'error: 6 files to write are already there'):
        predict('segmentation', *args)
    assert target.read_bytes() == b'mine'
    (tmp_path / 'out/labels/sub/a.png').unlink()
    capsys.readouterr()
    predict('segmentation', *args, '--existing', 'skip')
    text = capsys.readouterr().out
    assert '5 files were predicted before' in text and '1 images in' in text
    assert target.read_bytes() == b'mine'
    assert (tmp_path / 'out/labels/sub/a.png').exists()
    predict('segmentation', *args, '--existing', 'overwrite')
    assert Image.open(target).mode == 'P'


def test_label_maps_keep_the_names_of_their_classes(tool, predict, data, tmp_path):
    args = ['--out', tmp_path / 'out', '--save', 'labels', '--device', 'cpu']
    predict('segmentation', data / 'b.bmp', *args)
    before = (tmp_path / 'out/classes.json').read_bytes()
    predict('segmentation', data / 'sub/deep', *args)  # the same classes
    meta = dict(classes=('a', 'b', 'c', 'd'))
    other = trained.write(trained.segmentation(), tmp_path / 'other.pth', meta)
    for existing in ('error', 'skip'):
        with pytest.raises(SystemExit, match=r"classes.json' has other classes or col"):
            tool('predict.py', other, data / 'a.png', *args, '--existing', existing)
    assert (tmp_path / 'out/classes.json').read_bytes() == before
    assert not (tmp_path / 'out/labels/a.png').exists()
    tool('predict.py', other, data / 'a.png', *args, '--existing', 'overwrite')
    content = json.loads((tmp_path / 'out/classes.json').read_text())
    assert content['classes'] == list(meta['classes'])


# The longest name that file systems allow, and one that is not UTF-8.
@pytest.mark.parametrize('name', ['n' * 251, os.fsdecode(b'\xff')], ids=['long', 'raw'])
def test_odd_names(predict, models, data, tmp_path, name):
    path = shutil.move(data / 'a.png', data / f'{name}.png')
    predict('segmentation', path, '--out', tmp_path / 'out')
    assert set(os.listdir(tmp_path / 'out/labels')) == {f'{name}.png'}
    assert set(os.listdir(tmp_path / 'out/overlay')) == {f'{name}.jpg'}
    predict('classification', path, '--out', tmp_path / 'classes')
    content = json.loads((tmp_path / 'classes/predictions.json').read_text('utf-8'))
    assert content['images'][0]['image'] == str(path)
    with open(tmp_path / 'classes/predictions.csv', encoding='utf-8') as file:
        assert next(csv.DictReader(file))['image'].startswith(str(data))


def test_what_was_written_is_no_input(predict, data, tmp_path):
    args = [data, '--out', data / 'out', '--save', 'labels', '--existing', 'overwrite']
    predict('segmentation', *args)
    first = files_in(data / 'out')
    predict('segmentation', *args)
    assert files_in(data / 'out') == first and len(first) == 7


def test_classifiers_write_a_table_and_a_json_file(predict, models, data, tmp_path):
    out = tmp_path / 'out'
    args = ['--out', out, '--save', 'probabilities']
    predict('classification', data / 'a.png', data / 'sub', *args)
    assert files_in(out) == ['predictions.csv', 'predictions.json']
    with open(out / 'predictions.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    content = json.loads((out / 'predictions.json').read_text(encoding='utf-8'))
    assert content['classes'] == list(trained.CLASSES)
    paths = [data / 'a.png', data / 'sub/a.png', data / 'sub/deep/Ä c.PNG']
    assert len(rows) == len(content['images']) == 3
    model = load_model(models / 'classification.pth', device='cpu')
    for path, row, entry in zip(paths, rows, content['images']):
        result = model.predict(path)
        (first, score), (second, _) = result.top(2)
        assert row['image'] == entry['image'] == str(path)
        assert row['class'] == entry['class'] == first and row['class_2'] == second
        assert int(row['label']) == entry['label'] == result.label
        assert abs(float(row['score']) - score) < 1e-5
        np.testing.assert_allclose(entry['scores'], result.scores, atol=1e-6)
    with pytest.raises(SystemExit, match='2 files to write are already there'):
        predict('classification', data / 'a.png', *args)


def write_video(path, rate=10, size=(48, 64), count=7):
    """Write a video whose pictures become brighter, and return the pictures."""
    cv2 = pytest.importorskip('cv2')
    y, x = np.mgrid[: size[0], : size[1]]
    fourcc = cv2.VideoWriter_fourcc(*('mp4v' if path.suffix == '.mp4' else 'MJPG'))
    writer = cv2.VideoWriter(str(path), fourcc, rate, size[::-1])
    frames = []
    for k in range(count):
        image = np.stack([x * 3, y * 4, np.full_like(x, 30 * k)], 2).astype(np.uint8)
        writer.write(image[..., ::-1])
        frames.append(image)
    writer.release()
    return frames


@pytest.fixture(params=['av', 'cv2'])
def video_library(request, monkeypatch):
    if request.param == 'cv2':
        monkeypatch.setattr(videos, 'av', None)
    else:
        pytest.importorskip('av')
    return request.param


@pytest.mark.parametrize('name', ['a.mp4', 'b.AVI'])
def test_videos_become_videos(predict, models, tmp_path, video_library, name):
    frames = write_video(tmp_path / name)
    args = ['--out', tmp_path / 'out', '--opacity', '0', '--batch-size', '2']
    predict('segmentation', tmp_path / name, *args)
    stem = name.split('.')[0]
    assert files_in(tmp_path / 'out') == sorted(
        [
            'classes.json',
            f'overlay/{stem}.mp4',
            *(f'labels/{stem}/{k:06}.png' for k in range(1, 8)),
        ]
    )
    given, written = (
        videos.Video(str(path))
        for path in (tmp_path / name, tmp_path / f'out/overlay/{stem}.mp4')
    )
    assert written.rate == given.rate == 10
    pictures = [frame.image for frame in written]
    assert len(pictures) == 7
    for picture, frame in zip(pictures, frames):
        assert abs(picture.astype(int) - frame).mean() < 8
    model = load_model(models / 'segmentation.pth', device='cpu')
    for k, frame in enumerate(given, 1):
        labels = np.asarray(Image.open(tmp_path / f'out/labels/{stem}/{k:06}.png'))
        differing = labels != model.predict(frame.image).labels
        assert differing.mean() < 0.001


def test_pictures_of_a_phone_are_turned_upright(tmp_path, video_library):
    frames = write_video(tmp_path / 'a.mp4', count=2)
    content = (tmp_path / 'a.mp4').read_bytes()
    one = (1 << 16).to_bytes(4)
    none, minus = bytes(4), (-1 << 16).to_bytes(4, signed=True)
    upright = one + 3 * none + one
    # The matrix of the track's header, not of the movie's, turns the pictures.
    start = content.index(upright, content.index(b'tkhd'))
    for matrix, turns in ((none + one + none + minus + none, 3), (upright, 0)):
        turned = content[:start] + matrix + content[start + 20 :]
        (tmp_path / 'b.mp4').write_bytes(turned)
        pictures = [frame.image for frame in videos.Video(str(tmp_path / 'b.mp4'))]
        expected = np.rot90(frames[0], turns)
        assert pictures[0].shape == expected.shape
        assert abs(pictures[0].astype(int) - expected).mean() < 8


def test_odd_sizes_get_a_row_and_a_column_more(tmp_path, video_library):
    write_video(tmp_path / 'a.mp4')
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    image = np.asarray(Image.fromarray(image).resize((63, 47), Image.BICUBIC))
    like = videos.Video(str(tmp_path / 'a.mp4'))
    with videos.VideoWriter(tmp_path / 'b.mp4', like) as writer:
        for time in (0, 1024, None):
            writer.write(image, time)
    pictures = [frame.image for frame in videos.Video(str(tmp_path / 'b.mp4'))]
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.shape == (48, 64, 3)
        assert abs(picture[:47, :63].astype(int) - image).mean() < 8


def test_times_of_an_uneven_video_are_kept(predict, tmp_path):
    pytest.importorskip('av')
    write_video(tmp_path / 'a.mp4')
    like = videos.Video(str(tmp_path / 'a.mp4'))
    times = [0, 1024, 5 * 1024, 6 * 1024, 9000]
    with videos.VideoWriter(tmp_path / 'b.mp4', like) as writer:
        for time in times:
            writer.write(np.full((48, 64, 3), time % 251, np.uint8), time)
    args = ['--save', 'overlay', '--out', tmp_path / 'out', '--batch-size', '2']
    predict('segmentation', tmp_path / 'b.mp4', *args)
    given, written = (
        videos.Video(str(path))
        for path in (tmp_path / 'b.mp4', tmp_path / 'out/overlay/b.mp4')
    )
    seconds = [
        [float(frame.time * video.time_base) for frame in video]
        for video in (given, written)
    ]
    assert len(seconds[0]) == 5
    np.testing.assert_allclose(*seconds, atol=1e-3)


def test_classifiers_write_a_row_for_each_picture(predict, tmp_path, video_library):
    write_video(tmp_path / 'a.mp4', count=3)
    predict('classification', tmp_path / 'a.mp4', '--out', tmp_path / 'out')
    content = json.loads((tmp_path / 'out/predictions.json').read_text())
    names = [f'{tmp_path / "a.mp4"}#{k}' for k in (1, 2, 3)]
    assert [entry['image'] for entry in content['images']] == names


def test_broken_videos_are_named_and_leave_nothing(
    predict, data, tmp_path, video_library
):
    (data / 'broken.mp4').write_text('no video')
    (data / 'empty.mov').touch()
    with pytest.raises(
        SystemExit, match='2 of 8 files were skipped: cannot load the v'
    ):
        predict('segmentation', data, '--out', tmp_path / 'out', '--save', 'overlay')
    written = files_in(tmp_path / 'out/overlay')
    assert len(written) == 6 and not any('mp4' in name for name in written)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['missing.png', '--out', 'o'], "no file or folder 'missing.png' (from "),
        (['*.xyz', '--out', 'o'], "no file fits the pattern '*.xyz' (from "),
        (['b.bmp', '--out', 'o', '--batch-size', '0'], '--batch-size 0: expected at'),
        (['b.bmp', '--out', 'o', '--opacity', '7'], '--opacity 7.0: expected 0 to 1'),
        (['b.bmp', '--out', 'a.png'], "--out 'a.png' is a file: expected a folder"),
        (['b.bmp', '--out', 'o', '--config', 'c.py'], "no such file: 'c.py' (from "),
        (['b.bmp', '--out', 'o', '--device', 'cuda:99'], "device='cuda:99' cannot be"),
    ],
)
def test_mistakes_are_one_line(tool, models, data, monkeypatch, args, message):
    checkpoint = models / 'segmentation.pth'
    monkeypatch.chdir(data)
    with pytest.raises(SystemExit) as stop:
        tool('predict.py', checkpoint, *args)
    assert str(stop.value).startswith(f'error: {message}')
    assert '\n' not in str(stop.value) and not (data / 'o').exists()


def test_checkpoints_that_segment_nothing_are_refused(tool, predict, data, tmp_path):
    with pytest.raises(SystemExit, match='is of pre-training .*tools/embed.py'):
        predict('pretraining', data, '--out', tmp_path / 'out')
    config = trained.segmentation()
    text = config.pretty_text + '\nimport os\nos.system("touch HARM")\n'
    content = dict(state_dict=dict(a=torch.zeros(1)), meta=dict(cfg=text))
    torch.save(content, tmp_path / 'hostile.pth')
    with pytest.raises(SystemExit, match=r"'import os' \(Import\).*--trust-checkpoint"):
        tool('predict.py', tmp_path / 'hostile.pth', data, '--out', tmp_path / 'out')
    assert not (tmp_path / 'HARM').exists() and not (tmp_path / 'out').exists()


def test_the_config_may_be_given(tool, models, data, tmp_path):
    config = trained.segmentation()
    config.test_dataloader.dataset.metainfo = dict(classes=['a', 'b', 'c', 'd'])
    config.dump(tmp_path / 'config.py')
    weights = torch.load(models / 'segmentation.pth')['state_dict']
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    args = [data / 'b.bmp', '--out', tmp_path / 'out', '--device', 'cpu']
    with pytest.raises(SystemExit, match='holds weights without a config'):
        tool('predict.py', tmp_path / 'weights.pth', *args)
    tool(
        'predict.py',
        tmp_path / 'weights.pth',
        *args,
        '--config',
        tmp_path / 'config.py',
    )
    content = json.loads((tmp_path / 'out/classes.json').read_text())
    assert content['classes'] == ['a', 'b', 'c', 'd']
