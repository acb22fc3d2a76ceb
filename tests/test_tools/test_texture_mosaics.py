import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'texture_mosaics.py'
SMALL = [
    '--num-pretrain',
    '3',
    '--num-train',
    '4',
    '--num-val',
    '2',
    '--num-cls-train-per-class',
    '1',
    '--num-cls-val-per-class',
    '2',
]


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('texture_mosaics', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def made(tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('mosaics') / 'out'
    tool.main([str(out), *SMALL])
    return out


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def coordinates(height, width):
    """A picture whose pixels say where they are: [H, W, 3] uint8, channel 0 the row, channel 1 the column."""
    rows, cols = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, cols, cols], axis=-1)


def test_folders(tool, made):
    classes = json.loads((made / 'classes.json').read_text())
    assert (
        len(classes['classes'])
        == len(set(classes['classes']))
        == len({tuple(color) for color in classes['palette']})
        == 17
    )
    assert len(list((made / 'pretrain').glob('*.jpg'))) == 3
    for split, count in (('training', 4), ('validation', 2)):
        images = sorted(
            path.stem for path in (made / 'ade/images' / split).glob('*.jpg')
        )
        assert images == sorted(
            path.stem for path in (made / 'ade/annotations' / split).glob('*.png')
        )
        assert len(images) == count
    for split, count in (('train', 1), ('val', 2)):
        assert sorted(path.name for path in (made / 'cls' / split).iterdir()) == sorted(
            classes['classes']
        )
        assert all(
            len(list(folder.iterdir())) == count
            for folder in (made / 'cls' / split).iterdir()
        )
    manifest = json.loads((made / 'manifest.json').read_text())
    assert manifest['settings']['num_train'] == 4 and len(manifest['sha256']) == 64
    assert not (made / 'manifest.json.partial').exists()


def test_files_are_what_they_seem(made):
    for path in made.rglob('*.jpg'):
        image = Image.open(path)
        assert image.size == (128, 128) and image.mode == 'RGB'
        assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3  # 4:4:4
    for path in made.rglob('*.png'):
        labels = np.asarray(Image.open(path))
        assert labels.shape == (128, 128) and labels.dtype == np.uint8
        present, pixels = np.unique(labels, return_counts=True)
        assert present.min() >= 1 and present.max() <= 17 and 2 <= len(present) <= 5
        assert pixels.min() >= 0.06 * 128 * 128


def test_same_arguments_same_bytes(tool, made, tmp_path):
    tool.main([str(tmp_path / 'again'), *SMALL])
    assert digest(tmp_path / 'again') == digest(made)


def test_another_seed_other_images_and_more_images_begin_alike(tool, made, tmp_path):
    tool.main([str(tmp_path / 'seed'), *SMALL, '--seed', '1'])
    tool.main([str(tmp_path / 'more'), *SMALL, '--num-pretrain', '5'])
    first, seed, more = (
        digest(made),
        digest(tmp_path / 'seed'),
        digest(tmp_path / 'more'),
    )
    assert all(
        first[name] != seed[name] for name in first if name.endswith(('.jpg', '.png'))
    )
    assert all(
        first[name] == more[name] for name in first if name.endswith(('.jpg', '.png'))
    )


def test_second_run_returns_at_once(tool, tmp_path, capsys, monkeypatch):
    tool.main([str(tmp_path), *SMALL])
    with monkeypatch.context() as patch:
        patch.setattr(tool, 'write_files', lambda args: pytest.fail('written again'))
        tool.main([str(tmp_path), *SMALL])
    assert 'complete' in capsys.readouterr().out

    (tmp_path / 'pretrain' / '000001.jpg').unlink()
    (tmp_path / 'mine.txt').write_text('kept')
    tool.main([str(tmp_path), *SMALL])
    assert 'made anew' in capsys.readouterr().out
    assert (tmp_path / 'pretrain' / '000001.jpg').exists() and (
        tmp_path / 'mine.txt'
    ).read_text() == 'kept'

    tool.main([str(tmp_path), *SMALL, '--num-pretrain', '1'])
    assert len(list((tmp_path / 'pretrain').iterdir())) == 1


def test_interrupted_run_is_not_complete(tool, made, tmp_path, monkeypatch):
    write_files = tool.write_files

    def interrupt(args):
        write_files(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'write_files', interrupt)
    with pytest.raises(KeyboardInterrupt):
        tool.main([str(tmp_path), *SMALL])
    assert not (tmp_path / 'manifest.json').exists()
    monkeypatch.undo()
    tool.main([str(tmp_path), *SMALL])
    assert digest(tmp_path) == digest(made)


def test_folder_of_another_is_left_alone(tool, tmp_path):
    (tmp_path / 'ade').mkdir()
    (tmp_path / 'ade' / 'precious.jpg').write_text('')
    with pytest.raises(SystemExit, match='not made by this tool'):
        tool.main([str(tmp_path), *SMALL])
    assert (tmp_path / 'ade' / 'precious.jpg').exists()


@pytest.mark.parametrize('side', ['left', 'right', 'top', 'bottom'])
def test_boxes_divide_the_picture(tool, side):
    covered = np.zeros((100, 90), int)
    for box, share in zip(tool.split_boxes(100, 90, side), (2 / 3, 1 / 3)):
        covered[box.top : box.bottom, box.left : box.right] += 1
        assert (box.bottom - box.top) * (box.right - box.left) == pytest.approx(
            9000 * share, rel=0.02
        )
    assert (covered == 1).all()


@pytest.mark.parametrize('side', ['left', 'right', 'top', 'bottom'])
@pytest.mark.parametrize('size', [24, 100, 200])
def test_crops_stay_in_their_region(tool, side, size):
    picture = coordinates(150, 240)
    for box in tool.split_boxes(150, 240, side):
        region = tool.cut_region(picture, box)
        crops = [
            tool.sample_crop(region, size, size // 2 + 7, np.random.default_rng(seed))
            for seed in range(40)
        ]
        assert all(crop.shape == (size, size // 2 + 7, 3) for crop in crops)
        rows, cols = (
            np.stack([crop[..., channel] for crop in crops]) for channel in (0, 1)
        )
        assert (
            rows.min() >= box.top
            and rows.max() < box.bottom
            and cols.min() >= box.left
            and cols.max() < box.right
        )


def test_large_pictures_are_shrunk_after_the_cut(tool):
    picture = np.zeros((300, 1280, 3), np.uint8)
    train, val = tool.split_boxes(300, 1280, 'right')
    picture[:, val.left :] = 255
    assert tool.cut_region(picture, train).shape == (150, 426, 3) or tool.cut_region(
        picture, train
    ).shape == (150, 427, 3)
    assert (
        tool.cut_region(picture, train).max() == 0
        and tool.cut_region(picture, val).min() == 255
    )


def test_data_set_uses_the_region_of_its_split(tool, monkeypatch):
    """With pictures that are black for training and white for validation, the images are too."""

    def two_tone(path):
        source = next(
            source for source in tool.SOURCES if tool.find_source(source) == path
        )
        picture = np.zeros((300, 300, 3), np.uint8)
        box = tool.split_boxes(300, 300, source.val_side)[1]
        picture[box.top : box.bottom, box.left : box.right] = 255
        return picture

    monkeypatch.setattr(tool, 'load_picture', two_tone)
    monkeypatch.setattr(tool, 'jitter_tone', lambda crop, rng: crop.astype(np.float32))
    monkeypatch.setattr(tool, 'finish', lambda image, rng: image.astype(np.uint8))
    seen = set()
    for name, pixels in tool.generate(tool.parse_args(['unused', *SMALL])):
        if 'annotations' not in name:
            assert (pixels == (255 if '/val' in name else 0)).all(), name
            seen.add(
                '/'.join(name.split('/')[:-1]).rsplit('/', 1)[0]
                if 'cls' in name
                else name.rsplit('/', 1)[0]
            )
    assert seen == {
        'pretrain',
        'ade/images/training',
        'ade/images/validation',
        'cls/train',
        'cls/val',
    }


def test_labels_are_exact(tool, monkeypatch):
    """Each source one grey level: pixels and labels must agree everywhere."""
    monkeypatch.setattr(tool, 'jitter_tone', lambda crop, rng: crop.astype(np.float32))
    monkeypatch.setattr(tool, 'finish', lambda image, rng: image.astype(np.uint8))
    regions = [np.full((80, 90, 3), 10 * label, np.uint8) for label in range(1, 8)]
    counts = set()
    for seed in range(50):
        image, labels = tool.make_mosaic(regions, 64, np.random.default_rng(seed))
        np.testing.assert_array_equal(
            image, 10 * np.repeat(labels[..., None], 3, axis=2)
        )
        counts.add(len(np.unique(labels)))
    assert counts == {2, 3, 4, 5}


def test_tone_jitter(tool):
    crop = np.random.default_rng(0).integers(60, 120, (32, 32, 3)).astype(np.uint8)
    gains, offsets = zip(
        *(
            np.polyfit(
                crop.ravel(),
                tool.jitter_tone(crop, np.random.default_rng(seed)).ravel(),
                1,
            )
            for seed in range(50)
        )
    )
    assert 0.7 <= min(gains) < 0.8 and 1.2 < max(gains) <= 1.3
    assert min(offsets) < -30 and max(offsets) > 30
    finished = [
        tool.finish(crop.astype(np.float32), np.random.default_rng(seed))
        for seed in range(200)
    ]
    grey = np.mean([(image == image[..., :1]).all() for image in finished])
    assert 0.2 < grey < 0.4


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--size', '16'], 'size is 16'),
        (['--size', '512'], 'size is 512'),
        (['--num-val', '0'], 'num-val is 0'),
        (['--seed', '-1'], 'seed is -1'),
    ],
)
def test_bad_arguments(tool, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        tool.main([str(tmp_path), *arguments])


def test_folder_that_cannot_be_made(tool, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match='^error: .*file'):
        tool.main([str(tmp_path / 'file' / 'out'), *SMALL])


def test_missing_package(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(
        tool,
        'SOURCES',
        (tool.Source('nothing', 'skimage', 'data/nothing.png', 'left', (0, 0, 0)),),
    )
    with pytest.raises(SystemExit, match='nothing.png.*pip install'):
        tool.main([str(tmp_path), *SMALL])


def test_imports_no_training_library(tool):
    """The tool starts in a blink; and no picture needs a download, since no package's own loader is called."""
    imports = [
        line
        for line in TOOL.read_text().splitlines()
        if line.startswith(('import', 'from'))
    ]
    assert not any(
        name in line
        for line in imports
        for name in ('torch', 'mm', 'skimage', 'sklearn')
    )
