"""Label files of every kind, read through a table of classes."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.datasets import (
    ClassRow,
    ClassTable,
    LoadLabels,
    UnreadableImage,
    read_label,
    read_palette,
    read_values,
)
from mmmaskdistill.errors import ConfigError

tifffile = pytest.importorskip('tifffile')
COLOURS = np.array([[128, 64, 128], [0, 0, 0], [255, 0, 9]], np.uint8)
BY_VALUE = ClassTable(
    [
        ClassRow(0, 'road', (128, 64, 128)),
        ClassRow(1, 'void', (0, 0, 0), True),
        ClassRow(2, 'sky', (255, 0, 9)),
    ]
)
BY_COLOUR = ClassTable([row._replace(value=None) for row in BY_VALUE.rows])


@pytest.fixture
def index():
    return np.random.default_rng(0).integers(0, 3, (9, 13), np.uint8)


def expected(index):
    return np.array([0, 255, 1], np.uint8)[index]


def palette_image(index):
    image = Image.fromarray(index, 'P')
    image.putpalette(COLOURS.tobytes())
    return image


def rgba(colours):
    return np.dstack([colours, np.full(colours.shape[:2], 77, np.uint8)])


WRITERS = {
    'index.png': lambda path, i: Image.fromarray(i).save(path),
    'index.bmp': lambda path, i: Image.fromarray(i).save(path),
    'palette.png': lambda path, i: palette_image(i).save(path),
    'palette.tif': lambda path, i: palette_image(i).save(path),
    'palette.gif': lambda path, i: palette_image(i).save(path, optimize=False),
    '16.png': lambda path, i: cv2.imwrite(str(path), i.astype(np.uint16)),
    '8.tif': lambda path, i: Image.fromarray(i).save(path),
    '16.tif': lambda path, i: tifffile.imwrite(path, i.astype(np.uint16)),
    'int32.tif': lambda path, i: tifffile.imwrite(path, i.astype(np.int32)),
    'float.tif': lambda path, i: tifffile.imwrite(path, i.astype(np.float32)),
    'one_band.tif': lambda path, i: tifffile.imwrite(path, i[None, ..., None]),
    'gray_in_rgb.png': lambda path, i: Image.fromarray(np.dstack([i] * 3)).save(path),
    'gray_alpha.png': lambda path, i: Image.fromarray(np.dstack([i, i + 7])).save(path),
    'rgb.png': lambda path, i: Image.fromarray(COLOURS[i]).save(path),
    'rgba.png': lambda path, i: Image.fromarray(rgba(COLOURS[i])).save(path),
    'rgb.tif': lambda path, i: tifffile.imwrite(path, COLOURS[i], photometric='rgb'),
    'rgb.webp': lambda path, i: Image.fromarray(COLOURS[i]).save(path, lossless=True),
}


@pytest.mark.parametrize('kind', ['P2', 'P5'])
@pytest.mark.parametrize('largest', [2, 255, 1000, 65535])
def test_values_of_a_pgm_are_those_in_the_file(tmp_path, index, kind, largest):
    """Pillow scales them so that the largest value is white."""
    body = index.astype('>u2' if largest > 255 else 'u1').tobytes()
    if kind == 'P2':
        body = ' '.join(map(str, index.ravel())).encode()
    header = f'{kind}\n# made here\n13 9\n{largest}\n'.encode()
    (tmp_path / 'x.pgm').write_bytes(header + body)
    assert np.array_equal(read_values(tmp_path / 'x.pgm'), index)


@pytest.mark.parametrize('name', WRITERS)
def test_all_kinds_of_labels_give_the_same_classes(tmp_path, index, name):
    WRITERS[name](tmp_path / name, index)
    label = read_label(tmp_path / name, BY_VALUE)
    assert label.dtype == np.uint8 and np.array_equal(label, expected(index))


@pytest.mark.parametrize('name', ['palette.png', 'rgb.png', 'rgba.png', 'rgb.tif'])
def test_colors_stand_for_classes(tmp_path, index, name):
    WRITERS[name](tmp_path / name, index)
    assert np.array_equal(read_label(tmp_path / name, BY_COLOUR), expected(index))


def test_gray_values_may_be_colors(tmp_path):
    """Black and white, as colors, in a file of one channel."""
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / 'x.png')
    table = ClassTable([ClassRow(None, 'a', (255,) * 3), ClassRow(None, 'b', (0,) * 3)])
    assert read_label(tmp_path / 'x.png', table).tolist() == [[1, 0]]


@pytest.mark.parametrize(('value', 'one'), [(255, 255), (1, 1)])
def test_masks_may_have_one_bit_or_eight(tmp_path, value, one):
    mask = np.eye(5, 9, dtype=bool)
    table = ClassTable([ClassRow(0, 'background'), ClassRow(value, 'foreground')])
    Image.fromarray(mask).save(tmp_path / '1bit.png')
    Image.fromarray(mask * np.uint8(one)).save(tmp_path / '8bit.png')
    for name in ('1bit.png', '8bit.png'):
        assert np.array_equal(read_label(tmp_path / name, table), mask)


def test_large_and_negative_values(tmp_path):
    values = np.array([[0, 40000, 65535]])
    table = ClassTable([ClassRow(v, f'c{v}') for v in (65535, 0, 40000)])
    cv2.imwrite(str(tmp_path / 'x.png'), values.astype(np.uint16))
    assert read_label(tmp_path / 'x.png', table).tolist() == [[1, 2, 0]]
    table = ClassTable([ClassRow(70000, 'a'), ClassRow(-1, '', None, True)])
    tifffile.imwrite(tmp_path / 'x.tif', np.array([[-1, 70000]], np.int32))
    assert read_label(tmp_path / 'x.tif', table).tolist() == [[255, 0]]
    with pytest.raises(ConfigError, match=r'value 65536 \(1 pixels\)'):
        tifffile.imwrite(tmp_path / 'x.tif', np.array([[-1, 65536]], np.int32))
        read_label(tmp_path / 'x.tif', table)


def test_unknown_values_and_colors_are_named(tmp_path, index):
    index[2, 3] = 9
    index[0, :2] = 200
    Image.fromarray(index).save(tmp_path / 'x.png')
    with pytest.raises(ConfigError) as error:
        read_label(str(tmp_path / 'x.png'), BY_VALUE)
    assert str(error.value) == (
        f"the label '{tmp_path}/x.png' has the value 9 (1 pixels), 200 (2 pixels), "
        'which is not in the class table. It has 0, 1, 2: add a line for it, with '
        'ignore set to yes if its pixels do not count'
    )
    colours = COLOURS[index.clip(0, 2)]
    colours[4, 4] = 1, 2, 3
    Image.fromarray(colours).save(tmp_path / 'c.png')
    for table in (BY_COLOUR, BY_VALUE):
        with pytest.raises(
            ConfigError,
            match=r'the color #010203 \(1 pixels\).* It has'
            ' #804080, #000000, #ff0009',
        ):
            read_label(tmp_path / 'c.png', table)
    uncolored = ClassTable([ClassRow(0, 'a'), ClassRow(1, 'b')])
    with pytest.raises(ConfigError, match='has none: the file is a colored picture'):
        read_label(tmp_path / 'c.png', uncolored)
    Image.fromarray(colours).save(tmp_path / 'c.jpg')
    with pytest.raises(ConfigError, match='JPEG changes values and colors'):
        read_label(tmp_path / 'c.jpg', BY_COLOUR)


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_damaged_labels_are_named(tmp_path, content):
    (tmp_path / 'x.png').write_bytes(content)
    for read in (read_values, read_palette, lambda path: read_label(path, BY_VALUE)):
        with pytest.raises(UnreadableImage, match="cannot load the label '.*x.png': "):
            read(tmp_path / 'x.png')


def test_what_is_no_label_is_named(tmp_path):
    tifffile.imwrite(tmp_path / 'x.tif', np.array([[0.5, 1]], np.float32))
    with pytest.raises(UnreadableImage, match='x.tif.* 0.5 is not a whole number'):
        read_values(tmp_path / 'x.tif')
    tifffile.imwrite(
        tmp_path / 'x.tif',
        np.zeros((3, 4, 5), np.uint8),
        photometric='minisblack',
        planarconfig='contig',
    )
    with pytest.raises(UnreadableImage, match='x.tif.* 5 channels, expected one, or'):
        read_values(tmp_path / 'x.tif')


@pytest.mark.parametrize('ending', ['.png', '.tif'])
def test_labels_are_rotated_like_images(tmp_path, index, ending):
    """A label with an EXIF orientation has the pixels that Pillow shows."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for name, image in (('l', Image.fromarray(index)), ('p', palette_image(index))):
        image.save(tmp_path / f'{name}{ending}', exif=exif)
        values = read_values(tmp_path / f'{name}{ending}')
        assert np.array_equal(values, np.rot90(index, -1))


def test_palettes_are_read(tmp_path, index):
    palette_image(index).save(tmp_path / 'p.png')
    Image.fromarray(index).save(tmp_path / 'l.png')
    palette = read_palette(tmp_path / 'p.png')
    assert [palette[k] for k in range(3)] == [tuple(c) for c in COLOURS.tolist()]
    assert read_palette(tmp_path / 'l.png') == {}


def test_the_transform_checks_the_size(tmp_path, index):
    Image.fromarray(index).save(tmp_path / 'x.png')
    BY_VALUE.write(tmp_path / 'classes.csv')
    load = LoadLabels(str(tmp_path / 'classes.csv'))
    results = dict(seg_map_path=str(tmp_path / 'x.png'), img_path='i.jpg')
    # After a resize, the label is compared with the image's size on disk.
    label = load(dict(results, ori_shape=(9, 13), img_shape=(3, 4), seg_fields=[]))
    assert np.array_equal(label['gt_seg_map'], expected(index))
    assert label['seg_fields'] == ['gt_seg_map']
    with pytest.raises(ConfigError) as error:
        load(dict(results, ori_shape=(18, 26)))
    assert str(error.value) == (
        f"the label '{tmp_path}/x.png' has 13 x 9 pixels, its image 'i.jpg' has "
        '26 x 18: expected the same size'
    )
    with pytest.raises(ConfigError, match='same size. The image is turned as its EXIF'):
        load(dict(results, ori_shape=(13, 9)))
