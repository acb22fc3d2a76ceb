"""tools/dataset_converters/texture_mosaics.py: its files, crops, labels and errors."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / 'tools/dataset_converters/texture_mosaics.py'
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
def dataset(tool, tmp_path_factory):
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
    """Make a picture [H, W, 3] uint8 whose pixels hold their own position.

    Channel 0 is the row, channel 1 and channel 2 are the column.
    """
    rows, cols = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, cols, cols], axis=-1)


def test_folders_hold_the_requested_number_of_images(tool, dataset):
    classes = json.loads((dataset / 'classes.json').read_text())
    assert len(classes['classes']) == len(set(classes['classes'])) == 17
    assert len({tuple(color) for color in classes['palette']}) == 17
    assert len(list((dataset / 'pretrain').glob('*.jpg'))) == 3
    for split, count in (('training', 4), ('validation', 2)):
        images = sorted(
            path.stem for path in (dataset / 'ade/images' / split).glob('*.jpg')
        )
        assert images == sorted(
            path.stem for path in (dataset / 'ade/annotations' / split).glob('*.png')
        )
        assert len(images) == count
    for split, count in (('train', 1), ('val', 2)):
        folders = list((dataset / 'cls' / split).iterdir())
        assert {folder.name for folder in folders} == set(classes['classes'])
        assert all(len(list(folder.iterdir())) == count for folder in folders)
    manifest = json.loads((dataset / 'manifest.json').read_text())
    assert manifest['settings']['num_train'] == 4 and len(manifest['sha256']) == 64
    assert not (dataset / 'manifest.json.partial').exists()


def test_images_and_labels_have_the_right_format(dataset):
    for path in dataset.rglob('*.jpg'):
        image = Image.open(path)
        assert image.size == (128, 128) and image.mode == 'RGB'
        # The color channels are not subsampled (4:4:4).
        assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3
    for path in dataset.rglob('*.png'):
        labels = np.asarray(Image.open(path))
        assert labels.shape == (128, 128) and labels.dtype == np.uint8
        present, pixels = np.unique(labels, return_counts=True)
        assert present.min() >= 1 and present.max() <= 17 and 2 <= len(present) <= 5
        assert pixels.min() >= 0.06 * 128 * 128


def test_same_arguments_write_the_same_bytes(tool, dataset, tmp_path):
    tool.main([str(tmp_path / 'again'), *SMALL])
    assert digest(tmp_path / 'again') == digest(dataset)


def test_images_depend_on_the_seed_but_not_on_their_number(tool, dataset, tmp_path):
    tool.main([str(tmp_path / 'seed'), *SMALL, '--seed', '1'])
    tool.main([str(tmp_path / 'more'), *SMALL, '--num-pretrain', '5'])
    first = digest(dataset)
    seed, more = digest(tmp_path / 'seed'), digest(tmp_path / 'more')
    images = [name for name in first if name.endswith(('.jpg', '.png'))]
    assert all(first[name] != seed[name] for name in images)
    assert all(first[name] == more[name] for name in images)


def test_complete_dataset_is_not_written_again(tool, tmp_path, capsys, monkeypatch):
    tool.main([str(tmp_path), *SMALL])
    with monkeypatch.context() as patch:
        patch.setattr(tool, 'write_files', lambda args: pytest.fail('written again'))
        tool.main([str(tmp_path), *SMALL])
    assert 'complete' in capsys.readouterr().out

    (tmp_path / 'pretrain' / '000001.jpg').unlink()
    (tmp_path / 'mine.txt').write_text('kept')
    tool.main([str(tmp_path), *SMALL])
    assert 'made anew' in capsys.readouterr().out
    assert (tmp_path / 'pretrain' / '000001.jpg').exists()
    assert (tmp_path / 'mine.txt').read_text() == 'kept'

    tool.main([str(tmp_path), *SMALL, '--num-pretrain', '1'])
    assert len(list((tmp_path / 'pretrain').iterdir())) == 1


def test_interrupted_run_is_not_complete(tool, dataset, tmp_path, monkeypatch):
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
    assert digest(tmp_path) == digest(dataset)


def test_folder_not_made_by_the_tool_is_refused(tool, tmp_path):
    (tmp_path / 'ade').mkdir()
    (tmp_path / 'ade' / 'precious.jpg').write_text('')
    with pytest.raises(SystemExit, match='not made by this tool'):
        tool.main([str(tmp_path), *SMALL])
    assert (tmp_path / 'ade' / 'precious.jpg').exists()


@pytest.mark.parametrize('side', ['left', 'right', 'top', 'bottom'])
def test_boxes_cover_the_picture_without_overlap(tool, side):
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
        assert rows.min() >= box.top and rows.max() < box.bottom
        assert cols.min() >= box.left and cols.max() < box.right


def test_large_pictures_are_shrunk_after_the_cut(tool):
    picture = np.zeros((300, 1280, 3), np.uint8)
    train, val = tool.split_boxes(300, 1280, 'right')
    picture[:, val.left :] = 255
    assert tool.cut_region(picture, train).shape in [(150, 426, 3), (150, 427, 3)]
    assert tool.cut_region(picture, train).max() == 0
    assert tool.cut_region(picture, val).min() == 255


def test_images_use_the_region_of_their_split(tool, monkeypatch):
    """Training images are cut from training regions, validation images from others.

    The pictures are black in the training region and white in the other one.
    """

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
            folder = Path(name).parent
            if 'cls' in name:  # cls/SPLIT/CLASS/IMAGE
                folder = folder.parent
            seen.add(folder.as_posix())
    assert seen == {
        'pretrain',
        'ade/images/training',
        'ade/images/validation',
        'cls/train',
        'cls/val',
    }


def test_labels_equal_the_sources_of_the_pixels(tool, monkeypatch):
    """If each source has a single gray level, pixels and labels agree everywhere."""
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


def test_tone_jitter_and_gray_images_have_the_right_range(tool):
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
    gray = np.mean([(image == image[..., :1]).all() for image in finished])
    assert 0.2 < gray < 0.4


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--size', '16'], 'size is 16'),
        (['--size', '512'], 'size is 512'),
        (['--num-val', '0'], 'num-val is 0'),
        (['--seed', '-1'], 'seed is -1'),
    ],
)
def test_wrong_arguments_are_named(tool, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        tool.main([str(tmp_path), *arguments])


def test_folder_that_cannot_be_made_is_named(tool, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match='^error: .*file'):
        tool.main([str(tmp_path / 'file' / 'out'), *SMALL])


def test_missing_package_error_names_the_install_command(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(
        tool,
        'SOURCES',
        (tool.Source('nothing', 'skimage', 'data/nothing.png', 'left', (0, 0, 0)),),
    )
    with pytest.raises(SystemExit, match='nothing.png.*pip install'):
        tool.main([str(tmp_path), *SMALL])


def test_tool_imports_no_heavy_library(tool):
    """The tool imports neither training libraries nor the sources' packages.

    It therefore starts quickly, and needs no download, because it does not call
    the packages' own loaders.
    """
    modules = [
        line.split()[1]
        for line in TOOL.read_text().splitlines()
        if line.startswith(('import', 'from'))
    ]
    assert not any(
        module.startswith(('torch', 'mm', 'skimage', 'sklearn')) for module in modules
    )
