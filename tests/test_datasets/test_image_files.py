"""Images of any format, number of channels and depth, against independent writers."""

import builtins
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mmmaskdistill.datasets import UnreadableImage, image_info, read_image
from mmmaskdistill.errors import ConfigError

tifffile = pytest.importorskip('tifffile')
TYPES = (np.uint8, np.uint16, np.int16, np.float32, np.float64)


def values(channels, dtype, size=(9, 13)):
    rng = np.random.default_rng(0)
    return (rng.random((*size, channels)) * 200).astype(dtype)


def assert_reads(path, expected):
    """The image is as expected, and its header says so."""
    image = read_image(path)
    assert image.dtype == expected.dtype and np.array_equal(image, expected)
    info = image_info(path)
    assert info[:4] == (*expected.shape, expected.dtype.name)


@pytest.fixture
def without_tifffile(monkeypatch):
    real = builtins.__import__

    def import_(name, *args, **kwargs):
        if name == 'tifffile':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', import_)


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5, 12])
def test_tiffs_of_any_number_of_bands_and_type(tmp_path, channels, dtype):
    """Bands may be interleaved, in planes, or in pages, compressed or not."""
    expected = values(channels, dtype)
    rgb = dict(photometric='rgb' if channels in (3, 4) else 'minisblack')
    planes = np.moveaxis(expected, -1, 0)
    kinds = dict(
        interleaved=(expected, dict(rgb, planarconfig='contig')),
        planes=(planes, dict(rgb, planarconfig='separate')),
        deflated=(expected, dict(rgb, planarconfig='contig', compression='zlib')),
        big=(planes, dict(rgb, planarconfig='separate', bigtiff=True)),
        pages=(planes, dict(photometric='minisblack')),
    )
    if channels == 1:
        kinds = dict(one=(expected[..., 0], {}), big=(expected[..., 0], {}))
    for name, (array, options) in kinds.items():
        tifffile.imwrite(tmp_path / f'{name}.tif', array, **options)
        assert_reads(tmp_path / f'{name}.tif', expected)


def test_bands_behind_each_pixel_are_no_columns(tmp_path):
    """tifffile.imwrite takes [h, w, C] for h pages unless it is told otherwise."""
    expected = values(13, np.uint16, (50, 60))
    tifffile.imwrite(tmp_path / 'x.tif', expected)
    assert_reads(tmp_path / 'x.tif', expected)
    bands = values(13, np.uint16, (60, 50))
    tifffile.imwrite(tmp_path / 'x.tif', np.moveaxis(bands, -1, 0))
    assert_reads(tmp_path / 'x.tif', bands)


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_opencv_reads_what_it_can_without_tifffile(
    tmp_path, channels, dtype, without_tifffile
):
    if channels == 4 and dtype == np.uint8:
        pytest.skip('OpenCV multiplies the colors by the fourth channel')
    expected = values(channels, dtype)
    array = expected if channels > 1 else expected[..., 0]
    photometric = 'rgb' if channels > 1 else 'minisblack'
    tifffile.imwrite(tmp_path / 'x.tif', array, photometric=photometric)
    assert_reads(tmp_path / 'x.tif', expected)


@pytest.mark.parametrize('kind', ['two', 'five', 'pages', 'alpha'])
def test_what_only_tifffile_reads_says_so(tmp_path, kind, without_tifffile):
    """OpenCV would drop or multiply bands, and drop all pages but the first."""
    bands = dict(two=2, five=5, pages=4, alpha=4)[kind]
    array = values(bands, np.uint8 if kind == 'alpha' else np.uint16)
    options = dict(photometric='minisblack', planarconfig='contig')
    if kind == 'pages':
        array, options = np.moveaxis(array, -1, 0), dict(photometric='minisblack')
    tifffile.imwrite(tmp_path / 'x.tif', array, **options)
    with pytest.raises(ConfigError) as error:
        read_image(str(tmp_path / 'x.tif'))
    assert str(error.value) == (
        f"cannot load the image '{tmp_path}/x.tif': the package tifffile is not "
        'installed; to read it, pip install "mmmaskdistill[tiff]"'
    )


def test_a_stack_of_color_images_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / 'x.tif', np.zeros((5, 9, 13, 3), np.uint8), photometric='rgb'
    )
    with pytest.raises(UnreadableImage, match='5 images of 3 channels: expected a sin'):
        read_image(tmp_path / 'x.tif')


@pytest.mark.parametrize('ending', ['.png', '.ppm'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bits_are_kept(tmp_path, channels, ending):
    expected = np.random.default_rng(0).integers(0, 65536, (9, 13, channels), np.uint16)
    if ending == '.ppm' and channels != 3:
        pytest.skip('a ppm file has three channels')
    blue_first = expected[..., [[0], [2, 1, 0], [2, 1, 0, 3]][channels // 2]]
    cv2.imwrite(str(tmp_path / f'x{ending}'), blue_first)
    assert_reads(tmp_path / f'x{ending}', expected)


def test_16_bit_gray_with_alpha_has_two_channels(tmp_path):
    """Neither Pillow nor OpenCV writes such a file, so its parts are written here."""
    import struct
    import zlib

    expected = np.random.default_rng(0).integers(0, 65536, (9, 13, 2), np.uint16)
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in expected)
    parts = (
        (b'IHDR', struct.pack('>IIBBBBB', 13, 9, 16, 4, 0, 0, 0)),
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    )
    with open(tmp_path / 'x.png', 'wb') as file:
        file.write(b'\x89PNG\r\n\x1a\n')
        for name, body in parts:
            check = struct.pack('>I', zlib.crc32(name + body))
            file.write(struct.pack('>I', len(body)) + name + body + check)
    assert_reads(tmp_path / 'x.png', expected)


@pytest.mark.parametrize(
    ('mode', 'ending', 'channels'),
    [
        ('1', '.png', 1),
        ('1', '.tif', 1),
        ('L', '.jpg', 1),
        ('LA', '.png', 2),
        ('P', '.png', 3),
        ('P', '.tif', 3),
        ('P', '.gif', 3),
        ('RGB', '.webp', 3),
        ('RGBA', '.png', 4),
        ('RGBA', '.tif', 4),
        ('CMYK', '.jpg', 3),
        ('CMYK', '.tif', 3),
        ('YCbCr', '.jpg', 3),
    ],
)
def test_other_kinds_of_color_become_gray_or_rgb(tmp_path, mode, ending, channels):
    pixels = np.kron(values(3, np.uint8, (5, 6)), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(pixels).convert(mode).save(tmp_path / f'x{ending}')
    # A palette, black and white, and inks are ways to store RGB or gray.
    plain = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[channels]
    expected = np.asarray(Image.open(tmp_path / f'x{ending}').convert(plain))
    assert_reads(tmp_path / f'x{ending}', expected.reshape(40, 48, channels))


def test_the_first_picture_of_an_animation_is_read(tmp_path):
    frames = [Image.new('RGB', (5, 4), color) for color in ('red', 'blue')]
    frames[0].save(tmp_path / 'x.gif', save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / 'x.gif')[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['.jpg', '.png', '.tif'])
def test_orientations_are_applied_as_in_pillow(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = values(3, np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / f'x{ending}', exif=exif)
    if ending == '.jpg':
        pixels = np.asarray(Image.open(tmp_path / 'x.jpg'))
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert_reads(tmp_path / f'x{ending}', expected)


def test_orientations_of_16_bits_are_applied(tmp_path):
    expected = values(4, np.uint16)
    tag = (0x0112, 'H', 1, 6, False)  # to be turned clockwise
    tifffile.imwrite(tmp_path / 'x.tif', expected, photometric='rgb', extratags=[tag])
    assert_reads(tmp_path / 'x.tif', np.rot90(expected, -1))


def content(kind):
    file = io.BytesIO()
    Image.fromarray(values(3, np.uint8, (64, 64))).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ('damaged', 'reason'),
    [
        (b'', 'the file is empty'),
        (b'no image', 'it contains no image that can be decoded'),
        (b'II*\0', ''),
        (content('JPEG')[:900], 'truncated'),
        (content('PNG')[:900], 'truncated'),
        (content('TIFF')[:900], ''),
    ],
)
def test_damaged_files_are_named(tmp_path, damaged, reason):
    (tmp_path / 'x.img').write_bytes(damaged)
    with pytest.raises(UnreadableImage) as error:
        read_image(tmp_path / 'x.img')
    assert str(error.value).startswith(f"cannot load the image '{tmp_path}/x.img': ")
    assert reason in str(error.value)
    with pytest.raises(UnreadableImage, match='none.png.*No such file'):
        image_info(tmp_path / 'none.png')


def test_headers_are_read_without_the_pixels(tmp_path):
    """The header of a truncated file says what the file was to have."""
    (tmp_path / 'x.jpg').write_bytes(content('JPEG')[:900])
    assert image_info(tmp_path / 'x.jpg') == (64, 64, 3, 'uint8', 'JPEG')


@pytest.mark.parametrize('mode', ['L', 'RGB', 'I;16', 'P', '1'])
@pytest.mark.parametrize('compression', ['tiff_lzw', 'packbits', 'tiff_adobe_deflate'])
def test_compressed_tiffs_are_read(tmp_path, mode, compression):
    """Without imagecodecs, tifffile cannot read LZW, and OpenCV takes over."""
    pixels = values(3, np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 250)
    expected = np.asarray(image)[..., None]
    if mode != 'I;16':
        image = Image.fromarray(pixels).convert(mode)
        plain = image.convert({'P': 'RGB', '1': 'L'}.get(mode, mode))
        expected = np.asarray(plain).reshape(9, 13, -1)
    image.save(tmp_path / 'x.tif', compression=compression)
    assert_reads(tmp_path / 'x.tif', expected)
