"""Images in folders of any layout, and the label that belongs to each of them."""

import os

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from mmmaskdistill.datasets import (
    IMAGE_ENDINGS,
    ImageFolder,
    find_images,
    find_images_and_labels,
    pair_labels,
    read_image,
    separate_labels,
)
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import DATASETS

FORMATS = {'.jp2': 'JPEG2000', '.pbm': 'PPM', '.pnm': 'PPM', '.tif': 'TIFF'}
LOAD = [dict(type='mmmaskdistill.StrictLoadImageFromFile')]


def write(path, size=(12, 10), mode='RGB'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 1).save(path)
    return str(path)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')
    return str(path)


def relative(files, root):
    return [os.path.relpath(file, root) for file in files]


def test_images_of_any_layout_are_found(tmp_path):
    """At any depth, with capital endings and through links, and only once."""
    for name in ('b.JPG', 'a/deep/down/x.png', 'a/y.TiFF', 'c.webp', '1/0.bmp'):
        touch(tmp_path / 'in' / name)
    touch(tmp_path / 'elsewhere/z.ppm')
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'in/link')
    os.symlink(tmp_path / 'in', tmp_path / 'in/a/loop')
    for name in ('.hidden.png', '.cache/x.png', '__MACOSX/b.jpg', '@eaDir/b.jpg'):
        touch(tmp_path / 'in' / name)
    for name in ('notes.txt', 'a/x.gif', 'a/x.json', 'README', 'x.json'):
        touch(tmp_path / 'in' / name)
    os.symlink(tmp_path / 'nowhere.png', tmp_path / 'in/dangling.png')
    found = find_images(tmp_path / 'in')
    assert relative(found.files, tmp_path / 'in') == [
        '1/0.bmp',
        'a/deep/down/x.png',
        'a/y.TiFF',
        'b.JPG',
        'c.webp',
        'link/z.ppm',
    ]
    assert found.left_out == {
        'without an ending': 1,
        '.gif': 1,
        '.json': 2,
        'broken links': 1,
        '.txt': 1,
    }
    assert found.describe() == (
        '6 images (1 .bmp, 1 .png, 1 .tiff, 1 .jpg, 1 .webp, 1 .ppm); left out: '
        '1 without an ending, 1 .gif, 2 .json, 1 broken links, 1 .txt'
    )


def test_a_loop_of_links_ends(tmp_path):
    image = touch(tmp_path / 'a/x.png')
    os.symlink(tmp_path / 'a', tmp_path / 'a/again')
    assert find_images(tmp_path).files == [image]


def test_several_folders_files_and_lists_are_joined(tmp_path):
    first, second = touch(tmp_path / 'a/1.png'), touch(tmp_path / 'b c/2.png')
    third = touch(tmp_path / 'lists/3.png')
    (tmp_path / 'lists/own.txt').write_text('# mine\n\n3.png\n../b c\n', 'utf-8')
    found = find_images([first, tmp_path / 'a', str(tmp_path / 'lists/own.txt')])
    assert [os.path.realpath(file) for file in found.files] == [first, third, second]


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError('not now')

    touch(tmp_path / 'a/1.gif')
    with pytest.raises(ConfigError, match=r'no images in .*only 1 \.gif'):
        find_images(tmp_path / 'a')
    with pytest.raises(ConfigError, match="no file or folder '.*/none'"):
        find_images(tmp_path / 'none')
    with monkeypatch.context() as patch:
        patch.setattr('os.scandir', refuse)
        with pytest.raises(ConfigError, match="cannot read the folder '.*/a': not now"):
            find_images(tmp_path / 'a')
    (tmp_path / 'own.lst').write_text('a/2.png\n')
    with pytest.raises(ConfigError, match=r"own.lst' names 'a/2.png', but there is no"):
        find_images(tmp_path / 'own.lst')
    (tmp_path / 'binary.txt').write_bytes(b'\xff\xfe\xd8')
    with pytest.raises(ConfigError, match='cannot read the list .*binary.txt'):
        find_images(tmp_path / 'binary.txt')


@pytest.mark.parametrize('ending', IMAGE_ENDINGS)
def test_every_ending_is_read_by_both_loaders(tmp_path, ending):
    """The usual loader and LoadImage read the formats that count as images."""
    pixels = np.full((40, 50), 200, np.uint8)
    image = Image.fromarray(pixels).convert('1' if ending == '.pbm' else 'RGB')
    image.save(tmp_path / f'x{ending}', FORMATS.get(ending))
    assert read_image(tmp_path / f'x{ending}').shape[:2] == (40, 50)
    dataset = ImageFolder(tmp_path, pipeline=LOAD, test_mode=True)
    assert dataset[0]['img'].shape == (40, 50, 3)


def test_image_folder_says_what_it_found(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmmaskdistill.datasets.folders.print_log', lambda line, **_: lines.append(line)
    )
    write(tmp_path / 'a/1.png'), write(tmp_path / 'b/grey.png', mode='L')
    write(tmp_path / 'b/rgba.png', mode='RGBA')
    touch(tmp_path / 'a/notes.txt')
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(
        dict(
            type='mmmaskdistill.ImageFolder',
            data_root=str(tmp_path),
            paths=['a', 'b'],
            pipeline=LOAD,
        )
    )
    assert [dataset[k]['img'].shape for k in range(3)] == [(10, 12, 3)] * 3
    assert lines == [f'{tmp_path}/a, {tmp_path}/b: 3 images (3 .png); left out: 1 .txt']


def test_image_folder_replaces_few_damaged_images(tmp_path):
    for k in range(4):
        write(tmp_path / f'{k}.png')
    touch(tmp_path / 'empty.png')
    dataset = ImageFolder(tmp_path, pipeline=LOAD, max_unreadable=0.2)
    assert dataset[4]['img_path'] != str(tmp_path / 'empty.png')
    assert dataset.num_unreadable == 1
    strict = ImageFolder(tmp_path, pipeline=LOAD)
    with pytest.raises(ConfigError, match=r'1 of 5 images .*empty.png'):
        strict[4]


def test_image_folder_refuses_settings_of_other_data_sets(tmp_path):
    with pytest.raises(ConfigError, match=r"data_prefix='a': .* paths=\[...\]"):
        ImageFolder(tmp_path, data_prefix='a')


PAIRS = [
    ('train/a.jpg', 'train/a.png'),
    ('b.v2.tif', 'b.v2.TIF'),
    ('aachen_000_leftImg8bit.png', 'aachen_000_gtFine_labelIds.png'),
    ('c.jpg', 'c_mask.png'),
    ('d_sat.jpg', 'd_mask.png'),
    ('e.jpg', 'e_Segmentation.png'),
    ('f.jpg', 'f.jpg.png'),
    ('0001TP.png', '0001TP_L.png'),
    ('town/images/a.jpg', 'town/masks/a.png'),
    ('town/image/a_sat.jpg', 'town/Label/a_mask.png'),
    ('img_001.jpg', 'Mask_001.png'),
    ('21_training.tif', '21_manual1.gif'),
]


@pytest.mark.parametrize(('image', 'label'), PAIRS)
def test_a_label_is_found_by_its_name(image, label):
    found = pair_labels(
        [f'in/{image}', 'in/other.png'], 'in', ['gt/z.png', f'gt/{label}'], 'gt'
    )
    assert found.pairs == [(f'in/{image}', f'gt/{label}')]
    assert found.images_without_label == ['in/other.png']
    assert found.labels_without_image == ['gt/z.png']


def test_the_same_name_comes_before_a_suffix():
    found = pair_labels(['in/a.jpg'], 'in', ['gt/a.png', 'gt/a_mask.png'], 'gt')
    assert found.pairs == [('in/a.jpg', 'gt/a.png')]
    assert found.labels_without_image == ['gt/a_mask.png']
    # The names of images may end like those of labels.
    found = pair_labels(['in/a_mask.jpg'], 'in', ['gt/a_mask.png'], 'gt')
    assert found.pairs == [('in/a_mask.jpg', 'gt/a_mask.png')]


def test_folders_are_part_of_the_name():
    found = pair_labels(['in/x/1.jpg', 'in/y/1.jpg'], 'in', ['gt/y/1.png'], 'gt')
    assert found.pairs == [('in/y/1.jpg', 'gt/y/1.png')]
    assert found.images_without_label == ['in/x/1.jpg']


def test_two_labels_for_an_image_are_named():
    with pytest.raises(ConfigError, match=r"'in/a.jpg' has 2 .*'gt/a.png', 'gt/a.tif'"):
        pair_labels(['in/a.jpg'], 'in', ['gt/a.png', 'gt/a.tif'], 'gt')
    labels = ['gt/a_labelIds.png', 'gt/a_labelTrainIds.png']
    with pytest.raises(ConfigError, match='a_labelIds.png.*label_suffix of the data'):
        pair_labels(['in/a.jpg'], 'in', labels, 'gt')
    found = pair_labels(['in/a.jpg'], 'in', labels, 'gt', '_labelTrainIds')
    assert found.pairs == [('in/a.jpg', 'gt/a_labelTrainIds.png')]
    with pytest.raises(
        ConfigError, match="label 'gt/a.png' belongs to 2 images, 'in/a"
    ):
        pair_labels(['in/a.jpg', 'in/a.png'], 'in', ['gt/a.png'], 'gt')


def test_images_and_labels_of_one_folder_are_separated():
    files = [f'd/{name}' for name in ('a.jpg', 'a_mask.png', 'b_mask.png', 'c_gt.jpg')]
    images, labels = separate_labels(files, 'd')
    # There is no b, and no c, of which the others could be the labels.
    assert images == ['d/a.jpg', 'd/b_mask.png', 'd/c_gt.jpg']
    assert labels == ['d/a_mask.png']
    files = ['d/x/images/1.png', 'd/x/masks/1.png', 'd/masks/2.png', 'd/x/3.png']
    images, labels = separate_labels(files, 'd')
    assert labels == ['d/x/masks/1.png']
    files = ['d/1_sat.jpg', 'd/1_mask.png']
    assert separate_labels(files, 'd') == (files[:1], files[1:])
    files = ['d/1.jpg', 'd/1-truth.png']
    assert separate_labels(files, 'd', '-truth') == (files[:1], files[1:])


def test_gif_files_are_labels_and_no_images(tmp_path):
    for name in ('a.tif', 'a_mask.gif', 'b.gif'):
        touch(tmp_path / name)
    found, labels = find_images_and_labels(str(tmp_path), str(tmp_path))
    assert relative(found.files, tmp_path) == ['a.tif']
    assert relative(labels, tmp_path) == ['a_mask.gif']


def test_one_folder_may_lie_in_the_other(tmp_path):
    for name in ('a.png', 'b/c.png', 'labels/a.png', 'labels/b/c.png', 'labels.png'):
        touch(tmp_path / name)
    found, labels = find_images_and_labels(str(tmp_path), str(tmp_path / 'labels'))
    assert relative(found.files, tmp_path) == ['a.png', 'b/c.png', 'labels.png']
    assert relative(labels, tmp_path) == ['labels/a.png', 'labels/b/c.png']
    found, labels = find_images_and_labels(str(tmp_path / 'labels'), str(tmp_path))
    assert relative(found.files, tmp_path) == ['labels/a.png', 'labels/b/c.png']
    assert relative(labels, tmp_path) == ['a.png', 'b/c.png', 'labels.png']
