"""Windows of large pictures against the same files decoded as a whole."""

import builtins
import os
import sys

import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.apis.inference import rasters
from mmmaskdistill.apis.inference.rasters import Raster, WindowedRaster, open_raster
from mmmaskdistill.datasets import UnreadableImage, read_image
from mmmaskdistill.errors import ConfigError

rasterio = pytest.importorskip('rasterio')
tifffile = pytest.importorskip('tifffile')
HEIGHT, WIDTH = 37, 53
WINDOWS = [
    (slice(0, HEIGHT), slice(0, WIDTH)),
    (slice(3, 20), slice(17, 18)),
    (slice(36, 37), slice(0, 53)),
    (slice(0, 1), slice(52, 53)),
]


def values(channels, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return (rng.random((HEIGHT, WIDTH, channels)) * 200).astype(dtype)


def write_tiff(path, array, **options):
    """Write a TIFF with rasterio."""
    height, width, channels = array.shape
    size = dict(height=height, width=width, count=channels)
    with rasterio.open(
        path, 'w', driver='GTiff', **size, dtype=array.dtype, **options
    ) as file:
        file.write(np.moveaxis(array, -1, 0))


def picture(mode='RGB'):
    coarse = Image.fromarray(values(3)[:6, :8])
    return coarse.resize((WIDTH, HEIGHT), Image.BICUBIC).convert(mode)


@pytest.fixture
def without(monkeypatch):
    """Make packages unavailable."""
    real = builtins.__import__

    def without(*names):
        def import_(name, *args, **kwargs):
            if name.split('.')[0] in names:
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, '__import__', import_)

    return without


def assert_windows(path, by_window):
    """The windows are those of the file as a whole."""
    whole = read_image(path)
    with open_raster(path) as raster:
        assert isinstance(raster, WindowedRaster) == by_window
        assert (raster.height, raster.width, raster.channels) == whole.shape
        assert raster.dtype == whole.dtype and raster.georeference is None
        for rows, columns in WINDOWS:
            window = raster.read(rows, columns)
            assert window.dtype == whole.dtype
            assert np.array_equal(window, whole[rows, columns])
            assert raster.valid(rows, columns).all()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize('channels', [1, 3, 4, 12])
def test_tiffs_are_read_by_window(tmp_path, channels, dtype):
    array, rgb = values(channels, dtype), channels in (3, 4)
    kinds = dict(
        strips=dict(compress='deflate', photometric='RGB' if rgb else 'MINISBLACK'),
        tiles=dict(tiled=True, blockxsize=16, blockysize=16, compress='lzw'),
        planes=dict(interleave='band', bigtiff='YES'),
    )
    for name, options in kinds.items():
        # The fourth channel is no alpha, which would mark pixels without data.
        write_tiff(tmp_path / f'{name}.tif', array, **options, alpha='NO')
        if name != 'tiles':  # which the tests' tifffile cannot decompress
            assert_windows(tmp_path / f'{name}.tif', True)
        with open_raster(tmp_path / f'{name}.tif') as raster:
            assert np.array_equal(raster.read(*WINDOWS[0]), array)


@pytest.mark.parametrize(
    'name, mode, options, by_window',
    [
        ('rgb.png', 'RGB', {}, True),
        ('gray.png', 'L', {}, True),
        ('alpha.png', 'RGBA', {}, True),
        ('gray_alpha.png', 'LA', {}, True),
        ('deep.png', 'I;16', {}, True),
        ('palette.png', 'P', {}, False),
        ('bits.png', '1', {}, False),
        ('turned.png', 'RGB', dict(turn=6), False),
        ('x.jp2', 'RGB', {}, True),
        ('x.jpg', 'RGB', {}, False),
        ('turned.jpg', 'RGB', dict(turn=3), False),
        ('x.webp', 'RGB', dict(lossless=True), False),
        ('x.bmp', 'RGB', {}, False),
        ('rgb.tif', 'RGB', dict(compression='tiff_deflate'), True),
        ('palette.tif', 'P', {}, False),
        ('ink.tif', 'CMYK', {}, False),
        ('bits.tif', '1', {}, False),
        ('turned.tif', 'RGB', dict(turn=8), False),
    ],
)
def test_other_files_are_read_as_a_whole_or_by_window(
    tmp_path, name, mode, options, by_window
):
    if 'turn' in options:
        exif = Image.Exif()
        exif[0x0112] = options.pop('turn')
        options['exif'] = exif
    image = picture('I' if mode == 'I;16' else mode)
    if mode == 'I;16':
        image = Image.fromarray(values(1, np.uint16)[..., 0] * 300)
    image.save(tmp_path / name, **options)
    if name.startswith('turned'):
        with open_raster(tmp_path / name) as raster:
            assert (raster.height, raster.width) == read_image(tmp_path / name).shape[
                :2
            ]
            assert not isinstance(raster, WindowedRaster)
        return
    assert_windows(tmp_path / name, by_window)


def test_pages_of_a_tiff_are_bands(tmp_path):
    bands = values(3)
    tifffile.imwrite(
        tmp_path / 'x.tif', np.moveaxis(bands, -1, 0), photometric='minisblack'
    )
    assert_windows(tmp_path / 'x.tif', False)
    # Smaller copies of the picture in the same file are no bands.
    write_tiff(tmp_path / 'y.tif', bands, photometric='RGB')
    with rasterio.open(tmp_path / 'y.tif', 'r+') as file:
        file.build_overviews([2, 4])
    assert_windows(tmp_path / 'y.tif', True)


def test_photographic_tiffs_are_read_by_window(tmp_path):
    array = np.asarray(picture())
    write_tiff(tmp_path / 'x.tif', array, compress='jpeg', photometric='YCBCR')
    with open_raster(tmp_path / 'x.tif') as raster:
        assert isinstance(raster, WindowedRaster) and raster.channels == 3
        window = raster.read(*WINDOWS[1]).astype(int)
    assert np.abs(window - array[WINDOWS[1]]).mean() < 20


def test_arrays_and_pictures_of_pillow(tmp_path):
    array = values(4, np.float32)
    for source, expected in (
        (array, array),
        (array[..., 0], array[..., :1]),
        (picture(), np.asarray(picture())),
        (picture('P'), np.asarray(picture('P').convert('RGB'))),
    ):
        with open_raster(source) as raster:
            assert np.array_equal(raster.read(*WINDOWS[1]), expected[WINDOWS[1]])
            assert type(raster) is Raster


def test_no_data_values_masks_and_transparency(tmp_path):
    array = values(3, np.int16)
    hole, single = np.s_[5:9, 10:30], np.s_[20, 20, 0]
    array[hole] = array[single] = -7
    write_tiff(tmp_path / 'value.tif', array, nodata=-7)
    colors = values(4)
    colors[..., 3] = 255
    colors[hole][..., 3] = 0
    write_tiff(tmp_path / 'alpha.tif', colors, photometric='RGB', alpha='YES')
    nan = values(3, np.float32)
    nan[hole] = np.nan
    write_tiff(tmp_path / 'nan.tif', nan, nodata=np.nan)
    write_tiff(tmp_path / 'mask.tif', values(3))
    with rasterio.open(tmp_path / 'mask.tif', 'r+') as file:
        mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
        mask[hole] = 0
        file.write_mask(mask)
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[hole] = False
    for name in ('value', 'alpha', 'nan', 'mask'):
        with open_raster(tmp_path / f'{name}.tif') as raster:
            assert raster.has_masks
            assert np.array_equal(raster.valid(*WINDOWS[0]), expected), name
    with open_raster(tmp_path / 'value.tif') as raster:
        masks = raster.read_masks(*WINDOWS[0])
        assert not masks[single] and masks[20, 20].tolist() == [False, True, True]
    # The alpha channel of a PNG is one of the channels.
    picture('RGBA').save(tmp_path / 'x.png')
    with open_raster(tmp_path / 'x.png') as raster:
        assert not raster.has_masks


def test_tiffs_that_are_decoded_as_a_whole_keep_their_place(tmp_path):
    transform = rasterio.Affine(2, 0, 5, 0, -2, 9)
    options = dict(crs='EPSG:32633', transform=transform, nodata=3)
    indices = values(1) % 5
    write_tiff(tmp_path / 'palette.tif', indices, **options)
    with rasterio.open(tmp_path / 'palette.tif', 'r+') as file:
        file.write_colormap(1, {k: (k, 2 * k, 3 * k) for k in range(5)})
    with open_raster(tmp_path / 'palette.tif') as raster:
        assert raster.georeference.transform == transform
        assert raster.georeference.crs == 'EPSG:32633'
        colors = raster.read(*WINDOWS[1])
        assert np.array_equal(colors, indices[WINDOWS[1]] * [1, 2, 3])
        expected = indices[WINDOWS[1]] != 3
        assert 0 < expected.mean() < 1
        assert np.array_equal(raster.valid(*WINDOWS[1]), expected[..., 0])
        assert np.array_equal(
            raster.read_masks(*WINDOWS[1]), np.repeat(expected, 3, axis=2)
        )
    path = tmp_path / 'turned.tif'
    write_tiff(path, values(3), photometric='RGB', **options, interleave='pixel')
    with tifffile.TiffFile(path, mode='r+b') as tiff:
        assert 'Orientation' not in tiff.pages[0].tags
        # There is no room for another tag, so one that is not needed becomes it.
        tag = tiff.pages[0].tags['SampleFormat']
        code = np.array(0x0112, tiff.byteorder + 'u2').tobytes()
        tiff.filehandle.seek(tag.offset)
        tiff.filehandle.write(code)
        tiff.filehandle.seek(tag.offset + 4)
        tiff.filehandle.write(np.array([1, 6], tiff.byteorder + 'u4').tobytes())
    with pytest.raises(ConfigError) as error, open_raster(path):
        pass
    assert str(error.value) == (
        f"the image '{path}' has an orientation as well as a georeference or pixels "
        'without data: expected an orientation of 1 in such a file'
    )


def test_without_rasterio_uncompressed_tiffs_are_mapped(tmp_path, without):
    array = values(5, np.uint16)
    tifffile.imwrite(tmp_path / 'x.tif', array, photometric='minisblack')
    tifffile.imwrite(
        tmp_path / 'z.tif', array, photometric='minisblack', compression='zlib'
    )
    without('rasterio')
    assert_windows(tmp_path / 'x.tif', False)
    assert_windows(tmp_path / 'z.tif', False)
    with open_raster(tmp_path / 'x.tif') as raster:
        assert isinstance(raster._array.base, np.memmap)
    with open_raster(tmp_path / 'z.tif') as raster:
        assert not isinstance(raster._array.base, np.memmap)
    without('rasterio', 'tifffile')
    tifffile.imwrite(tmp_path / 'rgb.tif', values(3))
    assert_windows(tmp_path / 'rgb.tif', False)


@pytest.mark.parametrize(
    'options, what',
    [
        (dict(crs='EPSG:32633'), 'georeference'),
        (dict(transform=rasterio.Affine(2, 0, 5, 0, -2, 9)), 'georeference'),
        (dict(nodata=3), 'no-data value'),
    ],
)
def test_what_only_rasterio_reads_is_not_lost(tmp_path, without, options, what):
    path = tmp_path / 'x.tif'
    write_tiff(path, values(3), **options)
    without('rasterio')
    with pytest.raises(ConfigError) as error, open_raster(path):
        pass
    assert str(error.value) == (
        f"cannot load the image '{path}': it has a {what}, which only the package "
        'rasterio can read: pip install "mmmaskdistill[raster]"'
    )


def test_pillows_limit_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    for name in ('x.png', 'x.jpg', 'palette.png'):
        picture('P' if name.startswith('p') else 'RGB').save(tmp_path / name)
        with pytest.raises(UnreadableImage, match='exceeds limit'):
            read_image(tmp_path / name)
        with open_raster(tmp_path / name) as raster:
            assert (raster.height, raster.width, raster.channels) == (HEIGHT, WIDTH, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pictures_that_do_not_fit_into_the_memory(tmp_path, monkeypatch):
    path, needed = tmp_path / 'x.jpg', 3 * HEIGHT * WIDTH * 3
    picture().save(path)
    monkeypatch.setattr(rasters, '_available_memory', lambda: needed)
    with open_raster(path):
        pass
    monkeypatch.setattr(rasters, '_available_memory', lambda: needed - 1)
    with pytest.raises(ConfigError) as error, open_raster(path):
        pass
    assert str(error.value) == (
        f"the image '{path}' has 37 x 53 pixels, and decoding it takes up to 0.0 GB of "
        'memory, but 0.0 GB are free: convert it to a TIFF, which is read by window '
        '(gdal_translate -co TILED=YES -co COMPRESS=DEFLATE), and pip install '
        '"mmmaskdistill[raster]"'
    )


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc/meminfo')
def test_free_memory_is_less_than_all_memory():
    everything = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    assert 0.001 * everything < rasters._available_memory() < everything


def test_broken_files_are_named(tmp_path):
    image = picture().resize((400, 300))
    for name in ('x.png', 'x.jpg', 'x.tif'):
        image.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        (tmp_path / f'empty{name[1:]}').write_bytes(b'')
    (tmp_path / 'text.tif').write_text('no picture')
    names = (
        'x.png',
        'x.jpg',
        'x.tif',
        'empty.png',
        'empty.tif',
        'text.tif',
        'none.tif',
    )
    for name in names:
        with pytest.raises((ConfigError, UnreadableImage)) as error:  # noqa: SIM117
            with open_raster(tmp_path / name) as raster:
                raster.read(slice(0, 300), slice(0, 400))
        assert str(error.value).startswith(
            f"cannot load the image '{tmp_path / name}': "
        ), name
        assert '\n' not in str(error.value)


def test_complex_numbers_are_refused(tmp_path):
    path = tmp_path / 'x.tif'
    write_tiff(path, values(1, np.complex64))
    with pytest.raises(ConfigError) as error, open_raster(path):
        pass
    assert str(error.value) == (
        f"the image '{path}' has values of the type complex64: expected integers or "
        'floating point'
    )
