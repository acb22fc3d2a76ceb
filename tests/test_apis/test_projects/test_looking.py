"""What is found in folders of images and labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.apis.projects import looking
from mmmaskdistill.errors import ConfigError

tifffile = pytest.importorskip('tifffile')


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.tif':
        tifffile.imwrite(path, array, photometric='minisblack')
    else:
        Image.fromarray(array).save(path)
    return str(path)


def picture(*shape, dtype=np.uint8):
    return np.random.randint(0, 200, shape or (20, 30, 3)).astype(dtype)


def look(folder, labels, classes=None, share=0.5, suffix=None):
    folders = [str(folder)] if isinstance(folder, Path) else list(map(str, folder))
    images = looking.look_at_images(folders, None, [str(labels)], suffix)
    return looking.look_at_labels(
        folders, str(labels), classes, None, share, images.files, None, suffix
    )


def test_pictures_of_8_bits_are_one_kind(tmp_path):
    write(tmp_path / 'a.jpg', picture())
    write(tmp_path / 'below/b.png', picture(20, 30))
    write(tmp_path / 'c.png', picture(20, 30, 4))
    found = looking.look_at_images([str(tmp_path)], None)
    assert found.plain and found.channels == 3 and not found.left_out
    assert found.short_side == 20 and not found.are_photographs


def test_other_bands_are_measured(tmp_path):
    pixels = picture(20, 30, dtype=np.uint16)
    write(tmp_path / 'a.tif', pixels)
    found = looking.look_at_images([str(tmp_path)], None)
    assert not found.plain and found.channels == 1 and found.fill is None
    np.testing.assert_allclose(found.mean, [pixels.mean()])
    np.testing.assert_allclose(found.std, [pixels.std()])


def test_pixels_that_are_no_number_get_the_mean(tmp_path):
    pixels = np.full((4, 4), 3.0, np.float32)
    pixels[0, 0] = np.nan
    write(tmp_path / 'a.tif', pixels)
    found = looking.look_at_images([str(tmp_path)], None)
    assert (found.fill, found.mean, found.std) == (3.0, [3.0], [1.0])


def test_files_that_differ_or_cannot_be_read_are_left_out(tmp_path):
    for name in 'ab':
        write(tmp_path / f'{name}.tif', picture(20, 30, dtype=np.uint16))
    other = write(tmp_path / 'c.jpg', picture())
    broken = tmp_path / 'd.png'
    broken.write_bytes(b'no image')
    found = looking.look_at_images([str(tmp_path)], None)
    assert found.left_out.pop(other) == '3 channels of uint8, not 1 channels of uint16'
    assert list(found.left_out) == [str(broken)]
    assert len(found.files) == 2


def test_labels_of_another_size_and_lone_files_are_left_out(tmp_path):
    for name in 'abc':
        write(tmp_path / f'img/{name}.jpg', picture())
        write(tmp_path / f'ann/{name}.png', picture(20, 30) % 3)
    wrong = write(tmp_path / 'ann/a.png', picture(10, 15) % 3)
    image = write(tmp_path / 'img/lone.jpg', picture())
    label = write(tmp_path / 'ann/other.png', picture(20, 30) % 3)
    found = look(tmp_path / 'img', tmp_path / 'ann')
    assert found.left_out == {
        image: 'has no label',
        label: 'has no image',
        wrong: '15 x 10 pixels, its image has 30 x 20: resize the labels, without '
        'interpolation (nearest neighbor)',
    }
    assert sorted(name[-5:] for name in found.train + found.val) == ['b.jpg', 'c.jpg']
    assert len(found.val) == 1 and not found.all_used


@pytest.mark.parametrize(
    'colors, names, values',
    [
        ([0, 1, 255], ['class_0', 'class_1'], {0: 0, 1: 1, 255: 255}),
        ([0, 255], ['background', 'foreground'], {0: 0, 255: 1}),
        ([(5, 5, 5), (7, 7, 7)], ['class_5', 'class_7'], {5: 0, 7: 1}),
        ([(9, 0, 0), (0, 9, 0)], ['class_0', 'class_1'], {}),
    ],
)
def test_drafts_of_classes(tmp_path, colors, names, values):
    pixels = np.array(colors, np.uint8)[picture(20, 30) % len(colors)]
    write(tmp_path / 'img/a.jpg', picture())
    write(tmp_path / 'ann/a.png', pixels)
    found = look(tmp_path / 'img', tmp_path / 'ann')
    assert found.is_draft and found.table.names == names
    assert found.table.values == values
    assert not looking.unknown_values(found)


def test_values_that_the_table_lacks_are_found(tmp_path):
    write(tmp_path / 'img/a.jpg', picture())
    label = write(tmp_path / 'ann/a.png', picture(20, 30) % 3)
    table = tmp_path / 'classes.csv'
    table.write_text('value,name,colour,ignore\n0,sky,,\n2,road,,\n5,car,,\n')
    found = look(tmp_path / 'img', tmp_path / 'ann', str(table))
    assert looking.unknown_values(found) == {1: label}
    assert looking.names_of_values(found.table) == {0: 'sky', 2: 'road', 5: 'car'}


def test_photographs_are_no_labels(tmp_path):
    write(tmp_path / 'img/a.png', picture())
    write(tmp_path / 'ann/a.png', picture())
    with pytest.raises(ConfigError, match=r'the labels have 6\d\d different colors'):
        look(tmp_path / 'img', tmp_path / 'ann')


@pytest.mark.parametrize(
    'image, label, options',
    [
        ('a.jpg', 'a_mask.png', {}),
        ('images/a.jpg', 'masks/a.png', {}),
        ('a.jpg', 'labels/a.png', dict(labels='labels')),
        ('a.jpg', 'a_left.png', dict(suffix='_left')),
    ],
)
def test_labels_in_the_folder_of_the_images_are_no_images(
    tmp_path, image, label, options
):
    for name in 'ab':
        write(tmp_path / image.replace('a.', f'{name}.'), picture())
        pixels = picture(20, 30) % 3
        write(
            tmp_path / label.replace('/a', f'/{name}').replace('a_', f'{name}_'), pixels
        )
    labels = tmp_path / options.get('labels', '')
    suffix = options.get('suffix')
    images = looking.look_at_images([str(tmp_path)], None, [str(labels)], suffix)
    assert [file.path[-5:] for file in images.files] == ['a.jpg', 'b.jpg']
    found = look(tmp_path, labels, suffix=suffix)
    assert len(found.files) == 2 and found.all_used and found.table.num_classes == 3


def test_images_of_several_folders_and_of_lists_have_labels(tmp_path):
    """Their labels lie below one folder, with the same layout."""
    for name in ('x/img/0', 'x/img/1', 'y/img/0'):
        write(tmp_path / f'{name}.jpg', picture())
        write(tmp_path / f'labels/{name.replace("img/", "")}.png', picture(20, 30) % 3)
    write(tmp_path / 'y/img/unlisted.jpg', picture())
    both = [tmp_path / 'x', tmp_path / 'y/img/0.jpg']
    (tmp_path / 'list.txt').write_text('x/img/0.jpg\ny/../x/img/1.jpg\n')
    for images, count in ((both, 3), ([tmp_path / 'list.txt'], 2)):
        found = look(images, tmp_path / 'labels')
        assert len(found.train + found.val) == count and not found.all_used
    # Only the labels of one of two folders are used if these have no common layout.
    write(tmp_path / 'z/2.jpg', picture())
    write(tmp_path / 'labels/2.png', picture(20, 30))
    write(tmp_path / 'w/0.jpg', picture())
    write(tmp_path / 'labels/0.png', picture(20, 30))
    write(tmp_path / 'z/3.jpg', picture())
    write(tmp_path / 'labels/3.png', picture(20, 30))
    found = look([tmp_path / 'w', tmp_path / 'z'], tmp_path / 'labels')
    assert len(found.train + found.val) == 2
    assert any(f"'{tmp_path / 'w'}' has 1 labels, too" in note for note in found.notes)


def test_a_suffix_that_all_labels_have_is_found(tmp_path):
    for name in 'abc':
        write(tmp_path / f'img/{name}.jpg', picture())
        write(tmp_path / f'ann/{name}_first.png', picture(20, 30) % 3)
    assert look(tmp_path / 'img', tmp_path / 'ann').suffix == '_first'
    for name in 'abc':
        write(tmp_path / f'ann/{name}_second.png', picture(20, 30) % 2)
    with pytest.raises(
        ConfigError, match=r"'_first' \(3\), '_second' \(3\): choose one"
    ):
        look(tmp_path / 'img', tmp_path / 'ann')
    found = look(tmp_path / 'img', tmp_path / 'ann', suffix='_second')
    assert (found.suffix, found.table.num_classes, len(found.files)) == (
        '_second',
        2,
        3,
    )


def test_labels_must_fit_the_image_as_it_is_loaded(tmp_path):
    """An orientation in EXIF data turns images of any format."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ('.jpg', '.png', '.webp', '.tif'):
        Image.fromarray(picture()).save(tmp_path / f'x{ending}', exif=exif)
        (image,) = looking.look_at_images([str(tmp_path / f'x{ending}')], None).files
        assert image.size == (20, 30), ending
    (tmp_path / 'img').mkdir()
    Image.fromarray(picture()).save(tmp_path / 'img/a.png', exif=exif)
    write(tmp_path / 'ann/a.png', picture(20, 30) % 3)
    with pytest.raises(
        ConfigError, match=r'30 x 20 pixels, its image has 20 x 30\. The'
    ):
        look(tmp_path / 'img', tmp_path / 'ann')


def test_cmyk_is_rgb_and_deep_color_stays_deep(tmp_path):
    import cv2

    Image.fromarray(picture()).convert('CMYK').save(tmp_path / 'a.jpg')
    assert looking.look_at_images([str(tmp_path / 'a.jpg')], None).plain
    cv2.imwrite(str(tmp_path / 'b.png'), picture().astype(np.uint16) * 300)
    found = looking.look_at_images([str(tmp_path / 'b.png')], None)
    assert not found.plain and found.channels == 3 and max(found.mean) > 255


def test_jpeg_labels_and_soft_masks_are_named(tmp_path):
    for name in 'ab':
        write(tmp_path / f'img/{name}.jpg', picture())
        write(tmp_path / f'jpg/{name}.jpg', picture(20, 30) % 2 * 255)
        soft = np.zeros((20, 30), np.uint8)
        soft[10:] = 255
        soft[10, :5] = 50, 80, 90, 120, 200
        write(tmp_path / f'soft/{name}.png', soft)
    with pytest.raises(ConfigError, match=r'2 of 2 labels are JPEG files, whose compr'):
        look(tmp_path / 'img', tmp_path / 'jpg')
    notes = look(tmp_path / 'img', tmp_path / 'soft').notes
    assert notes[0].startswith('99.2 % of the pixels of the labels are 0 or 255, and 5')


def test_classes_that_only_one_part_has_are_named(tmp_path):
    for name in 'ab':
        write(tmp_path / f'img/{name}.jpg', picture())
        label = np.zeros((20, 30), np.uint8)
        label[0] = 1 if name == 'a' else 2
        write(tmp_path / f'ann/{name}.png', label)
    found = look(tmp_path / 'img', tmp_path / 'ann')
    (train,) = found.train
    own, other = (1, 2) if train.endswith('a.jpg') else (2, 1)
    assert found.notes == [
        '1 of 3 classes cannot be learned, since they have no pixel in the labels for '
        f'training (1): class_{other}',
        '1 of 3 classes have no IoU in validations, since they have no pixel in the '
        f'labels for validation (1): class_{own}',
    ]


def test_palettes_are_read_through_a_table_of_colors(tmp_path):
    for name in 'ab':
        write(tmp_path / f'img/{name}.jpg', picture())
        image = Image.fromarray(picture(20, 30) % 2)
        image.putpalette([9, 8, 7, 255, 0, 0])
        (tmp_path / 'ann').mkdir(exist_ok=True)
        image.save(tmp_path / f'ann/{name}.png')
    table = tmp_path / 'classes.csv'
    table.write_text('value,name,colour,ignore\n,a,9 8 7,\n,b,#ff0000,\n')
    found = look(tmp_path / 'img', tmp_path / 'ann', str(table))
    assert not looking.unknown_values(found) and not found.notes


@pytest.mark.parametrize('names', [('train', 'val'), ('training', 'validation')])
def test_folders_for_validation_are_found(tmp_path, names):
    for name in names:
        for part in ('img', 'ann'):
            (tmp_path / part / name).mkdir(parents=True)
    root = str(tmp_path)
    split = looking.find_split(f'{root}/img', f'{root}/ann', None, 0.1)
    folders = [f'{root}/{part}/{n}' for part in ('img', 'ann') for n in names]
    assert split == (folders[0], folders[1], None, folders[2], folders[3])
    assert looking.held_out([f'{root}/img']) == [folders[1]]


def test_a_test_folder_is_left_alone(tmp_path):
    for name in ('train', 'test'):
        (tmp_path / name).mkdir()
    train = str(tmp_path / 'train')
    split = looking.find_split(str(tmp_path), '', None, 0.1)
    assert split == (train, train, 0.1, '', '')
    assert looking.held_out([str(tmp_path)]) == [str(tmp_path / 'test')]


def test_the_folder_that_the_labels_belong_to_is_found(tmp_path):
    for name in 'abc':
        write(tmp_path / f'other/{name}{name}.jpg', picture())
        write(tmp_path / f'img/{name}.jpg', picture())
        write(tmp_path / f'ann/{name}.png', picture(20, 30) % 3)
    images = [str(tmp_path / 'other'), str(tmp_path / 'img')]
    found = looking.look_at_images(images, None)
    labels = looking.look_at_labels(
        images, str(tmp_path / 'ann'), None, None, 0.5, found.files, None
    )
    assert len(found.files) == 6 and labels.split.train == images[1]


def test_class_folders(tmp_path):
    for name in ('cat', 'dog'):
        for k in range(3):
            write(tmp_path / f'one/{name}/{k}.jpg', picture())
            write(tmp_path / f'two/train/{name}/{k}.jpg', picture())
            write(tmp_path / f'two/val/{name}/{k}.jpg', picture())
    one = looking.look_at_class_folders([str(tmp_path / 'one')], None, 0.3)
    assert (one.names, one.counts) == (['cat', 'dog'], dict(cat=3, dog=3))
    assert one.split.share == 0.3
    two = looking.look_at_class_folders([str(tmp_path / 'two')], None, 0.3)
    assert two.counts == dict(cat=6, dog=6) and two.split.share is None
    assert two.split.val == str(tmp_path / 'two/val')
    # Pictures next to the folders: these are no classes.
    write(tmp_path / 'one/a.jpg', picture())
    assert looking.look_at_class_folders([str(tmp_path / 'one')], None, 0.3) is None


def test_folders_of_days_are_no_classes(tmp_path):
    for folder in ('train/monday', 'train/tuesday', 'val/friday', 'val/sunday'):
        for k in range(2):
            write(tmp_path / f'{folder}/{k}.jpg', picture())
    assert looking.look_at_class_folders([str(tmp_path)], None, 0.3) is None


def test_a_class_without_validation_images(tmp_path):
    for folder in ('train/cat', 'train/dog', 'train/owl', 'val/cat', 'val/dog'):
        for k in range(2):
            write(tmp_path / f'{folder}/{k}.jpg', picture())
    with pytest.raises(ConfigError, match=r"only one of them has 'owl'\. Each class"):
        looking.look_at_class_folders([str(tmp_path)], None, 0.3)
    (tmp_path / 'val/owl').mkdir()
    found = looking.look_at_class_folders([str(tmp_path)], None, 0.3)
    assert found.counts == dict(cat=4, dog=4, owl=2)


def test_empty_folders_and_rare_classes(tmp_path):
    """Class folders of one image each are rather those of patients."""
    for name, count in dict(cat=4, dog=1, eel=0).items():
        (tmp_path / f'one/{name}').mkdir(parents=True)
        for k in range(count):
            write(tmp_path / f'one/{name}/{k}.jpg', picture())
    found = looking.look_at_class_folders([str(tmp_path / 'one')], None, 0.3)
    assert (found.names, found.empty) == (['cat', 'dog'], ['eel'])
    for name in ('anna', 'ben', 'carl'):
        write(tmp_path / f'patients/{name}/scan.jpg', picture())
    assert (
        looking.look_at_class_folders([str(tmp_path / 'patients')], None, 0.3) is None
    )
