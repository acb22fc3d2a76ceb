"""StrictLoadImageFromFile and LoadImage against mmcv's LoadImageFromFile.

Files that mmcv can read give the same results with StrictLoadImageFromFile. For all
others the error names the file.
"""

import io

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image

from mmmaskdistill.datasets import LoadImage, StrictLoadImageFromFile, UnreadableImage
from mmmaskdistill.errors import ConfigError

SKIMAGE = pytest.importorskip('skimage.data')
NOT_IMAGES = [b'', b'no image', b'\xff\xd8', b'\xff\xd8\xff\xe0 no image']


@pytest.fixture(scope='module')
def photograph():
    return Image.fromarray(SKIMAGE.astronaut()[:151, :203])


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, 'JPEG', **options)
    return file.getvalue()


def with_exif(content, body):
    """Insert an APP1 segment with ``body`` after the first marker of a JPEG."""
    size = (len(body) + 2).to_bytes(2, 'big')
    return content[:2] + b'\xff\xe1' + size + body + content[2:]


def encoded(image, kind):
    return cv2.imencode(kind, np.asarray(image))[1].tobytes()


def load(loader, path, content):
    path.write_bytes(content)
    return loader.transform(dict(img_path=str(path)))


def assert_loads_as_mmcv(content, tmp_path, **options):
    path = tmp_path / 'image'
    results = load(StrictLoadImageFromFile(**options), path, content)
    expected = load(LoadImageFromFile(**options), path, content)
    assert results.keys() == expected.keys()
    assert results['img_shape'] == expected['img_shape']
    assert results['ori_shape'] == expected['ori_shape']
    assert results['img'].dtype == expected['img'].dtype
    assert np.array_equal(results['img'], expected['img'])


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientations_are_applied_as_in_mmcv(photograph, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_loads_as_mmcv(jpeg(photograph, exif=exif), tmp_path)


@pytest.mark.parametrize(
    'body',
    [
        b'Exif\0\0',
        b'Exif\0\0MM\0*',
        b'Exif\0\0II*\0\xff\xff\xff\xff',
        b'Exif\0\0' + bytes(range(60)),
        b'Exif',
    ],
)
def test_corrupt_exif_is_treated_as_in_mmcv(photograph, tmp_path, body):
    assert_loads_as_mmcv(with_exif(jpeg(photograph), body), tmp_path)


def test_other_formats_than_color_jpeg_load_as_in_mmcv(photograph, tmp_path):
    pixels = np.asarray(photograph)
    for content in [
        jpeg(photograph.convert('L')),
        jpeg(photograph.convert('CMYK')),
        encoded(photograph, '.png'),
        encoded(photograph.convert('L'), '.png'),
        encoded(photograph.convert('RGBA'), '.png'),
        encoded(pixels.astype(np.uint16) * 257, '.png'),
        encoded(pixels[..., 0].astype(np.uint16) * 257, '.png'),
        encoded(photograph, '.bmp'),
        encoded(photograph, '.webp'),
        encoded(photograph, '.tiff'),
    ]:
        assert_loads_as_mmcv(content, tmp_path)


def test_damaged_jpegs_load_as_in_mmcv_or_are_refused(photograph, tmp_path):
    """Some versions of OpenCV decode a part of such files, others refuse them."""
    content = jpeg(photograph)
    for k in (len(content) // 3, len(content) // 2, len(content) - 2):
        for damaged in (
            content[:k],
            content[:k] + b'\0' * 40,
            content[:k] + bytes(40) + content[k + 40 :],
            content + b'appended',
        ):
            try:
                load(LoadImageFromFile(), tmp_path / 'image', damaged)
            except AssertionError:
                with pytest.raises(UnreadableImage):
                    load(StrictLoadImageFromFile(), tmp_path / 'image', damaged)
            else:
                assert_loads_as_mmcv(damaged, tmp_path)


def test_arguments_work_as_in_mmcv(photograph, tmp_path):
    content = jpeg(photograph)
    assert_loads_as_mmcv(content, tmp_path, to_float32=True)
    for options in (
        dict(color_type='grayscale'),
        dict(color_type='unchanged'),
        dict(imdecode_backend='pillow'),
    ):
        assert_loads_as_mmcv(content, tmp_path, **options)


@pytest.mark.parametrize('content', NOT_IMAGES)
def test_files_that_hold_no_image_are_named(tmp_path, content):
    path = tmp_path / 'broken.jpg'
    with pytest.raises(UnreadableImage, match='broken.jpg'):
        load(StrictLoadImageFromFile(), path, content)
    with pytest.raises(OSError, match='No such file'):
        StrictLoadImageFromFile()(dict(img_path=str(tmp_path / 'none.jpg')))


def test_ignore_empty_returns_none_for_empty_files(tmp_path):
    loader = StrictLoadImageFromFile(ignore_empty=True)
    assert load(loader, tmp_path / 'empty.jpg', b'') is None


def four_bands(path, dtype=np.uint16, channels=4):
    tifffile = pytest.importorskip('tifffile')
    array = np.random.default_rng(0).integers(0, 250, (9, 13, channels)).astype(dtype)
    tifffile.imwrite(path, array, photometric='minisblack', planarconfig='contig')
    return array


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.float64])
def test_images_keep_their_channels_and_depth(tmp_path, dtype):
    array = four_bands(tmp_path / 'x.tif', dtype)
    results = LoadImage(channels=4)(dict(img_path=str(tmp_path / 'x.tif')))
    assert results['img'].dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert np.array_equal(results['img'], array)
    assert results['img'].flags.c_contiguous
    assert results['img_shape'] == results['ori_shape'] == (9, 13)


def test_bands_are_chosen_and_ordered(tmp_path):
    """Three channels come in reverse order, which the data preprocessors expect."""
    array = four_bands(tmp_path / 'x.tif')
    path = dict(img_path=str(tmp_path / 'x.tif'))
    assert np.array_equal(LoadImage(bands=[3, 0])(path)['img'], array[..., [3, 0]])
    three = LoadImage(bands=[3, 0, 1])(path)['img']
    assert np.array_equal(three, array[..., [1, 0, 3]])
    preprocessor = ClsDataPreprocessor(mean=[0] * 3, std=[1] * 3, to_rgb=True)
    inputs = torch.from_numpy(three).permute(2, 0, 1)[None]
    seen = preprocessor(dict(inputs=inputs))['inputs'][0]
    assert np.array_equal(seen.permute(1, 2, 0), array[..., [3, 0, 1]])


def test_color_images_load_as_in_mmcv(photograph, tmp_path):
    photograph.save(tmp_path / 'x.png')
    path = dict(img_path=str(tmp_path / 'x.png'))
    assert np.array_equal(LoadImage()(path)['img'], LoadImageFromFile()(path)['img'])


def test_other_numbers_of_channels_are_refused(tmp_path):
    four_bands(tmp_path / 'x.tif')
    path = dict(img_path=str(tmp_path / 'x.tif'))
    with pytest.raises(ConfigError) as error:
        LoadImage(channels=3)(path)
    assert str(error.value) == (
        f"the image '{tmp_path}/x.tif' has 4 channels: expected channels=3, as set in "
        'LoadImage'
    )
    with pytest.raises(ConfigError, match=r"bands=\[0, 4\]: '.*' has 4 channels"):
        LoadImage(bands=[0, 4])(path)
    with pytest.raises(ConfigError, match=r'bands=\[-1\]: expected numbers of chan'):
        LoadImage(bands=[-1])
    with pytest.raises(ConfigError, match='channels=0: expected at least 1'):
        LoadImage(channels=0)


def test_pixels_without_a_value_are_filled_or_refused(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    array = np.ones((9, 13), np.float32)
    array[0, :2] = np.nan, np.inf
    tifffile.imwrite(tmp_path / 'x.tif', array)
    path = dict(img_path=str(tmp_path / 'x.tif'))
    with pytest.raises(
        ConfigError, match='x.tif.* 2 values that are NaN or infinite: '
    ):
        LoadImage()(path)
    image = LoadImage(fill=-3)(path)['img']
    assert image[0, :3, 0].tolist() == [-3, -3, 1] and image.dtype == np.float32
