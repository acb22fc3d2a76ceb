"""Label maps that are written by rows, against Pillow, OpenCV and rasterio."""

import builtins
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mmmaskdistill.apis.inference import label_files
from mmmaskdistill.apis.inference.label_files import Spool, label_type, write_rows
from mmmaskdistill.apis.inference.rasters import open_raster
from mmmaskdistill.errors import ConfigError

HEIGHT, WIDTH = 61, 43
CLASSES = ('sky', 'tree, bush', 'roäd')
PALETTE = [[1, 2, 3], [250, 7, 9], [40, 50, 60]]


def write(path, labels, classes=CLASSES, palette=PALETTE, **options):
    """Write a label map in parts of a few rows."""
    parts = (labels[row : row + 7] for row in range(0, len(labels), 7))
    write_rows(path, parts, *labels.shape, classes, palette, **options)


def labels(classes=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, classes, (HEIGHT, WIDTH)).astype(dtype)


def test_pngs_of_8_bits_have_the_palette(tmp_path):
    expected = labels()
    expected[5:9, 3:20] = 255
    write(tmp_path / 'x.png', expected)
    with Image.open(tmp_path / 'x.png') as image:
        image.verify()
    image = Image.open(tmp_path / 'x.png')
    assert image.mode == 'P' and np.array_equal(np.asarray(image), expected)
    colors = np.array(image.getpalette('RGB')).reshape(-1, 3)
    assert colors[:3].tolist() == PALETTE
    assert (colors[3:] == 255).all() and len(colors) == 256
    shown = np.asarray(image.convert('RGB'))
    assert np.array_equal(cv2.imread(str(tmp_path / 'x.png'))[..., ::-1], shown)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['x.png']


def test_pngs_of_16_bits_and_without_a_palette(tmp_path):
    deep = labels(300, np.uint16)
    deep[0, 0] = 65535
    write(tmp_path / 'deep.png', deep, [str(k) for k in range(300)])
    gray = labels()
    write(tmp_path / 'gray.png', gray, palette=None)
    for name, expected in (('deep', deep), ('gray', gray)):
        path = tmp_path / f'{name}.png'
        for array in (
            np.asarray(Image.open(path)),
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED),
        ):
            assert array.dtype == expected.dtype and np.array_equal(array, expected)


@pytest.mark.parametrize('size', [(1, 1), (1, 500), (500, 1)])
def test_pngs_of_unusual_sizes(tmp_path, size):
    expected = np.random.randint(0, 3, size).astype(np.uint8)
    write(tmp_path / 'x.png', expected)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'x.png')), expected)


def test_label_maps_compress_well(tmp_path):
    y, x = np.mgrid[:400, :300]
    expected = (np.sin(x / 130) + np.cos(y / 117 + x / 50) + 2).astype(np.uint8)
    write(tmp_path / 'x.png', expected)
    image = Image.fromarray(expected)
    image.putpalette(np.array(PALETTE, np.uint8).tobytes())
    image.save(tmp_path / 'pillow.png')
    sizes = [(tmp_path / name).stat().st_size for name in ('x.png', 'pillow.png')]
    # The palette has 768 bytes.
    assert sizes[0] < 1.1 * sizes[1] + 768


def test_geotiffs_lie_where_their_sources_lie(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC

    transform = rasterio.Affine(0.5, 0.1, 400000, -0.1, -0.5, 5000000)
    points = [
        GroundControlPoint(row, col, 10.0 + col / 100, 50.0 - row / 100)
        for row, col in ((0, 0), (0, 40), (50, 0), (50, 40))
    ]
    ones = [1.0] + [0.0] * 19
    rpc = RPC(
        0.0, 1.0, 48.0, 0.1, ones, ones, 30.0, 30.0, 11.0, 0.1, ones, ones, 20, 20
    )
    sources = dict(
        transform=dict(crs='EPSG:32633', transform=transform),
        points=dict(gcps=points, crs='EPSG:4326'),
        coefficients=dict(rpcs=rpc),
    )
    expected = labels()
    expected[3, 4] = 255
    for name, options in sources.items():
        size = dict(height=HEIGHT, width=WIDTH, count=1, dtype='uint8', driver='GTiff')
        with rasterio.open(tmp_path / 'source.tif', 'w', **size, **options) as file:
            file.write(np.zeros((1, HEIGHT, WIDTH), np.uint8))
        with open_raster(tmp_path / 'source.tif') as raster:
            georeference = raster.georeference
        write(tmp_path / f'{name}.tif', expected, georeference=georeference)
        with (
            rasterio.open(tmp_path / 'source.tif') as source,
            rasterio.open(tmp_path / f'{name}.tif') as file,
        ):
            assert np.array_equal(file.read(1), expected)
            assert file.dtypes == ('uint8',) and file.nodata == 255
            assert file.crs == source.crs and file.transform == source.transform
            assert file.gcps[1] == source.gcps[1]
            assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == [
                (p.row, p.col, p.x, p.y) for p in source.gcps[0]
            ]
            assert (file.rpcs is None) == (name != 'coefficients')
            assert file.rpcs == source.rpcs
            colors = file.colormap(1)
            assert [list(colors[k][:3]) for k in range(3)] == PALETTE
            assert colors[255][:3] == (255, 255, 255)
            assert json.loads(file.tags()['classes']) == list(CLASSES)
    assert {path.suffix for path in tmp_path.iterdir()} == {'.tif'}


def test_tiffs_of_16_bits(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    expected = labels(300, np.uint16)
    write(tmp_path / 'x.tiff', expected, [str(k) for k in range(300)])
    with rasterio.open(tmp_path / 'x.tiff') as file:
        assert np.array_equal(file.read(1), expected)
        assert file.dtypes == ('uint16',) and file.nodata == 65535


def test_the_number_of_classes_decides_the_type():
    assert [label_type(number) for number in (1, 255, 256)] == [
        (np.dtype(np.uint8), 255),
        (np.dtype(np.uint8), 255),
        (np.dtype(np.uint16), 65535),
    ]


@pytest.mark.parametrize('ending', ['.png', '.tif'])
def test_an_error_leaves_what_was_there(tmp_path, ending):
    if ending == '.tif':
        pytest.importorskip('rasterio')
    path = tmp_path / f'x{ending}'
    path.write_bytes(b'before')

    def parts():
        yield labels()[:10]
        raise ConfigError('the picture ends here')

    with pytest.raises(ConfigError, match='ends here'):
        write_rows(path, parts(), HEIGHT, WIDTH, CLASSES, PALETTE)
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ConfigError) as error:
        write(tmp_path / 'x.jpg', labels())
    assert str(error.value) == (
        f"cannot write the label map '{tmp_path / 'x.jpg'}': expected a name that ends "
        'in .png, .tif, .tiff'
    )
    real = builtins.__import__

    def import_(name, *args, **kwargs):
        if name == 'rasterio':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', import_)
    with pytest.raises(ConfigError) as error:
        write(tmp_path / 'x.tif', labels())
    assert str(error.value) == (
        f"cannot write the label map '{tmp_path / 'x.tif'}': the package rasterio is "
        'not installed. Write a .png instead, or pip install "mmmaskdistill[raster]"'
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_blocks_in_any_order_are_read_as_rows(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(label_files, 'PIXELS', 5 * WIDTH + 3)
    expected = labels(200, dtype)
    blocks = [
        (row, column)
        for row in range(0, HEIGHT, 25)
        for column in (0, *((20,) if row else ()))
    ]
    with Spool(tmp_path, HEIGHT, WIDTH, dtype) as spool:
        for row, column in reversed(blocks):
            width = 20 if row and not column else WIDTH
            # Labels come in the type of torch's indices.
            block = expected[row : row + 25, column : column + width].astype(np.int64)
            spool.write(row, column, block)
        parts = list(spool.rows())
        assert [len(part) for part in parts] == [5] * 12 + [1]
        assert np.array_equal(np.concatenate(parts), expected)
    assert not list(tmp_path.iterdir())
