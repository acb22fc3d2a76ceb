"""The fast loader's pixels are those of mmcv's."""
import io

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmmaskdistill.datasets import FastLoadImageFromFile, loading

SKIMAGE = pytest.importorskip('skimage.data')
NO_IMAGE = [b'', b'no image', b'\xff\xd8', b'\xff\xd8\xff\xe0 no image']


@pytest.fixture(scope='module')
def photograph():
    return Image.fromarray(SKIMAGE.astronaut()[:151, :203])


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, 'JPEG', **options)
    return file.getvalue()


def with_exif(content, body):
    """A JPEG with an APP1 segment of this body after its first marker."""
    size = (len(body) + 2).to_bytes(2, 'big')
    return content[:2] + b'\xff\xe1' + size + body + content[2:]


def encoded(image, kind):
    return cv2.imencode(kind, np.asarray(image))[1].tobytes()


def load(loader, path, content):
    path.write_bytes(content)
    return loader.transform(dict(img_path=str(path)))


def assert_same(content, tmp_path, **options):
    path = tmp_path / 'image'
    ours = load(FastLoadImageFromFile(**options), path, content)
    theirs = load(LoadImageFromFile(**options), path, content)
    assert ours.keys() == theirs.keys()
    assert ours['img_shape'] == theirs['img_shape']
    assert ours['ori_shape'] == theirs['ori_shape']
    assert ours['img'].dtype == theirs['img'].dtype
    assert np.array_equal(ours['img'], theirs['img'])


@pytest.fixture
def decoded(monkeypatch):
    """What simplejpeg decoded."""
    simplejpeg = pytest.importorskip('simplejpeg')
    calls, decode = [], simplejpeg.decode_jpeg

    def decode_jpeg(*args, **kwargs):
        calls.append(decode(*args, **kwargs))
        return calls[-1]

    monkeypatch.setattr(simplejpeg, 'decode_jpeg', decode_jpeg)
    return calls


@pytest.mark.parametrize('quality', [30, 75, 97])
@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0', '4:1:1'])
@pytest.mark.parametrize('progressive', [False, True])
def test_jpegs(photograph, tmp_path, decoded, quality, subsampling,
               progressive):
    for size in [(203, 151), (16, 16), (1, 1), (17, 3), (2, 40)]:
        content = jpeg(
            photograph.resize(size), quality=quality, subsampling=subsampling,
            progressive=progressive)
        assert_same(content, tmp_path)
    assert len(decoded) == 5


def test_jpegs_of_another_encoder(photograph, tmp_path, decoded):
    for sampling in (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
                     cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411):
        content = cv2.imencode('.jpg', np.asarray(photograph), [
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling,
            cv2.IMWRITE_JPEG_RST_INTERVAL, 3
        ])[1].tobytes()
        assert_same(content, tmp_path)
    assert len(decoded) == 2


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientations(photograph, tmp_path, decoded, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_same(jpeg(photograph, exif=exif), tmp_path)
    assert not decoded


@pytest.mark.parametrize(
    'body', [b'Exif\0\0', b'Exif\0\0MM\0*', b'Exif\0\0II*\0\xff\xff\xff\xff',
             b'Exif\0\0' + bytes(range(60)), b'Exif'])
def test_corrupt_exif(photograph, tmp_path, body):
    assert_same(with_exif(jpeg(photograph), body), tmp_path)


def test_what_is_no_colour_jpeg(photograph, tmp_path, decoded):
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
        assert_same(content, tmp_path)
    assert not decoded


def test_damaged_jpegs(photograph, tmp_path):
    """Some OpenCVs show what they can of them, some nothing."""
    content = jpeg(photograph)
    for k in (len(content) // 3, len(content) // 2, len(content) - 2):
        for damaged in (content[:k], content[:k] + b'\0' * 40,
                        content[:k] + bytes(40) + content[k + 40:],
                        content + b'appended'):
            try:
                load(LoadImageFromFile(), tmp_path / 'image', damaged)
            except AssertionError:
                with pytest.raises(loading.UnreadableImage):
                    load(FastLoadImageFromFile(), tmp_path / 'image', damaged)
            else:
                assert_same(damaged, tmp_path)


def test_other_arguments(photograph, tmp_path, decoded):
    content = jpeg(photograph)
    assert_same(content, tmp_path, to_float32=True)
    assert len(decoded) == 1
    for options in (dict(color_type='grayscale'),
                    dict(color_type='unchanged'),
                    dict(imdecode_backend='pillow')):
        assert_same(content, tmp_path, **options)
    assert len(decoded) == 1
    with pytest.raises(ValueError, match='file_client_args=.*backend_args'):
        FastLoadImageFromFile(file_client_args=dict(backend='disk'))


def test_without_the_codec(photograph, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, 'simplejpeg', None)
    assert_same(jpeg(photograph), tmp_path)


@pytest.mark.parametrize('content', NO_IMAGE)
def test_no_image(tmp_path, content):
    path = tmp_path / 'broken.jpg'
    with pytest.raises(loading.UnreadableImage, match='broken.jpg'):
        load(FastLoadImageFromFile(), path, content)
    assert load(FastLoadImageFromFile(ignore_empty=True), path, content) is None
    with pytest.raises(OSError, match='No such file'):
        FastLoadImageFromFile()(dict(img_path=str(tmp_path / 'none.jpg')))
