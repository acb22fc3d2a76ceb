"""What visitors upload is checked, and what they see is small."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmmaskdistill.apis.web.pictures import (
    Share,
    data_address,
    label_image,
    open_picture,
    rank_shares,
    shrink,
)
from mmmaskdistill.errors import ConfigError

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def decoded(address):
    kind, _, content = address.partition(',')
    assert kind == 'data:image/png;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_shares_are_sorted_and_count_all_pixels():
    labels = np.full((10, 10), 2, np.uint8)
    labels[:3] = 0
    labels[3, :4] = 255
    assert rank_shares(labels, ('a', 'b', 'c'), PALETTE) == [
        Share(2, 'c', (0, 0, 255), 0.66),
        Share(0, 'a', (255, 0, 0), 0.3),
    ]
    assert [x.name for x in rank_shares(labels, None, PALETTE)] == ['2', '0']


def test_pictures_are_read_with_their_rotation(tmp_path):
    pixels = np.random.randint(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
    found = open_picture(str(tmp_path / 'a.png'), 24)
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(gray).save(tmp_path / 'b.png')
    found = open_picture(str(tmp_path / 'b.png'), 24)
    np.testing.assert_array_equal(found, np.stack([gray] * 3, 2))


def test_large_pictures_are_not_decoded(tmp_path, monkeypatch):
    path = str(tmp_path / 'a.png')
    Image.new('1', (5000, 4001)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda self: 1 / 0)
    with pytest.raises(ConfigError) as caught:
        open_picture(path, 20_000_000)
    assert str(caught.value) == (
        'The picture has 5000 x 4001 pixels: expected at most 20 million'
    )


def test_a_bomb_is_not_decoded(tmp_path):
    # The header alone says 60,000 x 60,000 pixels.
    buffer = io.BytesIO()
    Image.new('L', (1, 1)).save(buffer, 'PNG')
    content = bytearray(buffer.getvalue())
    content[16:24] = (60_000).to_bytes(4, 'big') * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match='60000 x 60000 pixels|exceeds limit'):
        open_picture(str(path), 20_000_000)


@pytest.mark.parametrize(
    'name, content, reason',
    [
        ('empty.jpg', b'', 'the file is empty'),
        ('text.jpg', b'hello', 'it contains no image that can be decoded'),
        ('page.svg', b'<svg onload="x"/>', 'it contains no image that can be decoded'),
    ],
)
def test_other_files_have_a_message_without_folders(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        open_picture(str(tmp_path / name), 100)
    assert str(caught.value) == f'This file cannot be shown: {reason}'


def test_half_a_file_has_a_message(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[:1000])
    with pytest.raises(ConfigError, match='This file cannot be shown: '):
        open_picture(str(tmp_path / 'a.jpg'), 10_000)


def test_labels_survive_shrinking_and_the_way_to_the_page():
    labels = np.random.randint(0, 60_000, (30, 40)).astype(np.uint16)
    small = shrink(labels, 20)
    assert small.shape == (15, 20) and np.isin(small, labels).all()
    assert shrink(labels, 40) is labels
    assert shrink(np.zeros((1, 5000), np.uint8), 100).shape == (1, 100)
    pixels = decoded(data_address(label_image(labels))).astype(int)
    np.testing.assert_array_equal(pixels[..., 0] + 256 * pixels[..., 1], labels)


def test_pictures_are_averaged():
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[::2, ::2] = 200
    assert (shrink(picture, 2) == 50).all()
    np.testing.assert_array_equal(decoded(data_address(picture)), picture)
