"""What is in the files: values, sizes, colors, damage."""

import numpy as np
import pytest
from helpers.image_files import labels, picture, save
from PIL import Image


def test_black_and_white_labels_are_named(pairs, segment, found):
    pairs(lambda: labels(classes=2) * 255)
    errors, warnings = found(segment)
    assert errors == []
    share = warnings[0].split(' (')[1].split(' ')[0]
    assert 45 < int(share) < 55
    assert warnings[0] == (
        '2 classes without a pixel in all 2 labels of train_dataloader.dataset: b, c. '
        f'The labels are 0, 255, of which 255 ({share} % of the pixels) is ignored. If '
        '255 is a class (white in a mask of 0 and 255), map the values to labels with '
        'mmmaskdistill.FolderSegDataset and its classes file'
    )


def test_labels_beyond_the_classes_are_named(pairs, segment, found):
    root = pairs()
    pixels = np.zeros((48, 64))
    pixels[:2, :5] = 4
    save(pixels, root / 'ann/train/1.png')
    errors, warnings = found(segment)
    assert warnings == []
    assert errors == [
        "'DATA/ann/train/1.png' has label 4 (train_dataloader.dataset, 3 classes), "
        'model.decode_head.num_classes=3 and ignore_index=255, '
        'model.auxiliary_head.num_classes=3 and ignore_index=255: set num_classes of '
        'all heads and metainfo.classes to what the files hold, or correct the labels. '
        'Labels beyond the classes in all 2 labels: 4 (10 pixels)'
    ]
    # In validation, nothing stops, but the metrics are wrong.
    save(pixels, root / 'ann/val/1.png')
    save(labels(), root / 'ann/train/1.png')
    errors, (warning,) = found(segment)
    assert errors == []
    assert warning.startswith(
        "label 4 in 'DATA/ann/val/1.png' (val_dataloader.dataset)"
    )
    # Only one of the heads is too narrow.
    option = {'model.auxiliary_head.num_classes': 2}
    errors, _ = found(segment, option)
    assert 'has label 2 ' in errors[0] and 'decode_head' not in errors[0]


def test_losses_that_take_any_label_are_warned_of(pairs, segment, found):
    pairs(lambda: labels(classes=5))
    loss = dict(type='DiceLoss')
    for head in (segment.model.decode_head, segment.model.auxiliary_head):
        head.loss_decode = loss
    errors, warnings = found(segment)
    assert errors == [] and 'has label 3 ' in warnings[0]


def test_labels_that_start_at_1_are_named(pairs, segment, found):
    pairs(lambda: labels() + 1)
    errors, _ = found(segment)
    assert (
        'the labels start at 1: set train_dataloader.dataset.reduce_zero_label=True'
    ) in errors[0]
    option = {
        f'{loader}_dataloader.dataset.reduce_zero_label': True
        for loader in ('train', 'val')
    }
    assert found(segment, option) == ([], [])
    # The file has another value than the label.
    option['train_dataloader.dataset.metainfo.classes'] = ['a', 'b']
    option['model.decode_head.num_classes'] = 2
    errors, _ = found(segment, option)
    assert 'has label 2 (train' in errors[0]
    pairs(lambda: labels(classes=2) + 3)
    errors, _ = found(segment, option)
    assert 'has label 2 (the file has 3, 4) (train' in errors[0]


def test_one_channel_has_two_labels(pairs, segment, found):
    pairs(lambda: labels(classes=2))
    option = {
        f'{loader}_dataloader.dataset.metainfo.classes': ['a', 'b']
        for loader in ('train', 'val')
    }
    for head, classes, channels in (('decode', 2, 1), ('auxiliary', 1, 1)):
        option[f'model.{head}_head.num_classes'] = classes
        option[f'model.{head}_head.out_channels'] = channels
        option[f'model.{head}_head.loss_decode.use_sigmoid'] = True
    assert found(segment, option) == ([], [])


def test_rare_classes_are_only_missed_in_all_files(pairs, segment, found, monkeypatch):
    root = pairs(lambda: labels(classes=2), count=6)
    names = [f'class {k}' for k in range(40)]
    option = {
        f'{loader}_dataloader.dataset.metainfo.classes': names
        for loader in ('train', 'val')
    }
    option.update(
        {f'model.{head}_head.num_classes': 40 for head in ('decode', 'auxiliary')}
    )
    _, (warning,) = found(segment, option)
    assert warning.startswith('38 classes without a pixel in all 6 labels of train')
    monkeypatch.setattr('mmmaskdistill.apis.checks.labels.SAMPLE', 3)
    assert found(segment, option) == ([], [])
    _, (warning,) = found(segment, option, complete=True, workers=0)
    assert warning.startswith('38 classes without a pixel in all 6 labels of train')
    # Of few classes, each should be in a sample.
    (warning,) = found(segment)[1]
    assert warning.startswith('1 class without a pixel in 3 of 6 labels of train')
    assert warning.endswith('tools/analysis_tools/check_data.py looks at all labels')
    del root


def test_color_labels_are_named(pairs, segment, found):
    pairs(picture)
    errors, warnings = found(segment)
    assert warnings == []
    assert errors[0] == (
        "'DATA/ann/train/0.png' has 48 x 64 x 3 values, a color image, as are 2 of 2 "
        'labels of train_dataloader.dataset; expected one label per pixel. Set '
        'type=mmmaskdistill.FolderSegDataset with a classes file that has the color of '
        'each class, or convert the files'
    )
    assert 'val_dataloader.dataset' in errors[1] and len(errors) == 2


def test_labels_with_a_palette_are_read_as_labels(pairs, segment, found):
    root = pairs()
    for split in ('train', 'val'):
        for k in range(2):
            image = Image.fromarray(labels().astype(np.uint8))
            image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            image.save(root / f'ann/{split}/{k}.png')
    assert found(segment) == ([], [])
    step = 'train_dataloader.dataset.pipeline.1.imdecode_backend'
    errors, _ = found(segment, {step: 'cv2'})
    assert errors[0].startswith("'DATA/ann/train/0.png' has 48 x 64 x 3 values")


def test_sizes_that_differ_are_named(pairs, segment, found):
    root = pairs(lambda: labels(24, 32))
    errors, _ = found(segment)
    assert errors[0] == (
        "'DATA/img/train/0.jpg' has 64 x 48 pixels, its label 'DATA/ann/train/0.png' "
        '32 x 24. Image and label differ in 2 of 2 pairs of train_dataloader.dataset: '
        'resize the labels (nearest neighbor), or pair the files correctly'
    )
    # OpenCV turns the image, Pillow does not turn the label.
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ('train', 'val'):
        for k in range(2):
            save(labels(), root / f'ann/{split}/{k}.png')
    save(picture(), root / 'img/train/0.jpg', exif=exif)
    errors, _ = found(segment)
    assert len(errors) == 1 and 'EXIF orientation' in errors[0]
    assert "'DATA/img/train/0.jpg' has 48 x 64 pixels" in errors[0]


def test_unreadable_files_are_named(pairs, segment, found):
    root = pairs()
    (root / 'img/train/0.jpg').write_bytes(b'')
    (root / 'ann/val/1.png').write_text('no image')
    errors, _ = found(segment)
    assert errors[0] == (
        '1 of 2 images of train_dataloader.dataset cannot be read: '
        "'DATA/img/train/0.jpg' (the file is empty). Repair or remove them"
    )
    assert errors[1].startswith(
        '1 of 2 labels of val_dataloader.dataset cannot be loaded: '
        "'DATA/ann/val/1.png' ("
    )


@pytest.mark.parametrize('loads', [True, False])
def test_damage_is_found_in_all_files(pairs, segment, found, monkeypatch, loads):
    root = pairs(count=3)
    path = root / 'img/train/1.jpg'
    path.write_bytes(path.read_bytes()[:-300])
    # Whether OpenCV loads what is left of a JPEG depends on its version.
    monkeypatch.setattr('mmmaskdistill.apis.checks.labels._loads', lambda *_: loads)
    errors, warnings = found(segment, complete=True, workers=0)
    text = "'DATA/img/train/1.jpg' (image file is truncated"
    if loads:
        assert errors == []
        assert warnings[0].startswith(
            '1 of 3 images of train_dataloader.dataset are damaged, and what is '
            f'missing is filled with gray: {text}'
        )
    else:
        assert warnings == []
        assert errors[0].startswith(
            f'1 of 3 images of train_dataloader.dataset cannot be read: {text}'
        )


def test_settings_of_the_loader_that_contradict_are_named(pairs, segment, found):
    pairs()
    step = 'train_dataloader.dataset.pipeline.1.reduce_zero_label'
    errors, _ = found(segment, {step: True})
    assert (
        'cannot be loaded' in errors[0] and '`reduce_zero_label` is True' in errors[0]
    )


def test_lossy_and_wide_labels_are_named(pairs, segment, found):
    root = pairs()
    wide = labels().astype(np.uint16)
    wide[0, 0] = 65535  # becomes 255, which is ignored
    Image.fromarray(wide).save(root / 'ann/train/0.png')
    assert found(segment) == ([], [])
    wide[0, 0] = 300
    Image.fromarray(wide).save(root / 'ann/train/0.png')
    _, warnings = found(segment)
    assert warnings[-1].startswith(
        "'DATA/ann/train/0.png' has the value 300, of which LoadAnnotations keeps the "
        'lowest 8 bits (44)'
    )
    for split in ('train', 'val'):
        for k in range(2):
            save(np.zeros((48, 64)), root / f'ann/{split}/{k}.jpg')
    option = {'train_dataloader.dataset.seg_map_suffix': '.jpg'}
    _, warnings = found(segment, option)
    assert any('are JPEG files' in text for text in warnings)


@pytest.mark.parametrize('workers', [0, 2])
def test_the_complete_check_finds_what_a_sample_misses(
    pairs, segment, found, tmp_path, monkeypatch, workers
):
    root = pairs(count=40)
    pixels = labels()
    pixels[0, 0] = 9
    save(pixels, root / 'ann/train/39.png')
    monkeypatch.setattr('mmmaskdistill.apis.checks.labels.SAMPLE', 8)
    assert found(segment) == ([], [])
    counts = []
    kwargs = dict(
        complete=True,
        workers=workers,
        cache=tmp_path / 'cache.json',
        progress=lambda text: lambda done, total: counts.append((text, done, total)),
    )
    for _ in range(2):
        errors, _ = found(segment, **kwargs)
        assert "'DATA/ann/train/39.png' has label 9" in errors[0]
    # The second time, the cache knows all files, and nothing is read.
    assert counts[-1] == ('images of val_dataloader.dataset', 40, 40)
    assert len(counts) == 4
    save(labels(), root / 'ann/train/39.png')
    assert found(segment, **kwargs) == ([], [])


def test_a_size_outside_of_the_sample_is_found(pairs, segment, found, monkeypatch):
    root = pairs(count=5)
    save(labels()[:24, :32], root / 'ann/train/3.png')
    monkeypatch.setattr('mmmaskdistill.apis.checks.labels.SAMPLE', 2)
    (error,), _ = found(segment)
    assert error.startswith(
        "'DATA/img/train/3.jpg' has 64 x 48 pixels, its label 'DATA/ann/train/3.png' "
        '32 x 24. Image and label differ in this pair, and perhaps in others, of '
        'train_dataloader.dataset: resize the labels'
    )
    monkeypatch.setattr('mmmaskdistill.apis.checks.labels.HEADER_SECONDS', 0)
    assert found(segment)[0] == []
