"""Reading of images and labels, and the tables of what they hold."""

import io

import cv2
import numpy as np
import pytest
from helpers.image_files import labels, picture, save
from PIL import Image

from mmmaskdistill.apis.checks import (
    ProgressLine,
    image_table,
    inspect_images,
    inspect_labels,
    inspection,
    label_table,
    mean_and_std,
)


def test_images_are_measured(tmp_path):
    pixels = picture().astype(np.uint8)
    deep = np.random.randint(0, 60000, (48, 64)).astype(np.uint16)
    save(pixels, tmp_path / 'a.png')
    save(deep, tmp_path / 'deep.png')
    save(np.dstack([pixels, pixels[..., :1]]), tmp_path / 'rgba.png')
    names = ['a.png', 'deep.png', 'rgba.png']
    color, wide, alpha = inspect_images([tmp_path / name for name in names], workers=0)
    assert (color.size, color.channels, color.dtype) == ((64, 48), 3, 'uint8')
    np.testing.assert_allclose(color.mean, pixels.mean((0, 1)))
    np.testing.assert_allclose(color.std, pixels.std((0, 1)))
    assert color.low == tuple(pixels.min((0, 1)))
    assert color.high == tuple(pixels.max((0, 1)))
    assert (wide.channels, wide.dtype, wide.format) == (1, 'uint16', 'PNG')
    np.testing.assert_allclose([wide.mean[0], wide.std[0]], [deep.mean(), deep.std()])
    assert alpha.channels == len(alpha.mean) == 4
    headers = inspect_images([color.path, wide.path], workers=0, decode=False)
    assert [h.size for h in headers] == [(64, 48)] * 2
    assert [h.dtype for h in headers] == ['uint8', 'uint16'] and headers[0].mean == ()


@pytest.mark.parametrize('decode', [True, False])
def test_tiff_files_of_any_channels_are_read(tmp_path, decode):
    tifffile = pytest.importorskip('tifffile')
    bands = np.random.normal(size=(5, 48, 64)).astype(np.float32)
    tifffile.imwrite(tmp_path / 'bands.tif', bands)
    tifffile.imwrite(tmp_path / 'last.tif', np.zeros((48, 64, 4), np.uint16))
    paths = [tmp_path / 'bands.tif', tmp_path / 'last.tif']
    first, last = inspect_images(paths, workers=0, decode=decode)
    assert (first.size, first.channels, first.dtype) == ((64, 48), 5, 'float32')
    assert (last.size, last.channels, last.dtype) == ((64, 48), 4, 'uint16')
    if decode:
        np.testing.assert_allclose(first.std, bands.std((1, 2)), rtol=1e-5)


def test_unreadable_images_say_why(tmp_path):
    save(picture(), tmp_path / 'cut.jpg')
    content = (tmp_path / 'cut.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(content[:-300])
    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'text.jpg').write_text('text')
    names = ['cut.jpg', 'empty.jpg', 'text.jpg', 'none.jpg']
    found = inspect_images([tmp_path / name for name in names], workers=0)
    assert found[0].error.startswith('image file is truncated')
    assert [image.error for image in found[1:]] == [
        'the file is empty',
        'it contains no image that can be decoded',
        'the file does not exist',
    ]
    table = image_table(found)
    assert f"unreadable      4\n{'':<16}'{tmp_path}/cut.jpg': image file is" in table


def test_labels_are_counted(tmp_path):
    index = labels().astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / 'palette.png')
    save(index.astype(np.uint16) * 1000, tmp_path / 'wide.png')
    Image.fromarray(index > 0).save(tmp_path / 'bits.png')
    save(np.array([[0, 0, 0], [255, 0, 0], [0, 8, 0]])[index], tmp_path / 'color.png')
    names = ['palette.png', 'wide.png', 'bits.png', 'color.png']
    palette, wide, bits, color = inspect_labels(
        [tmp_path / name for name in names], workers=0
    )
    counts = np.bincount(index.ravel()).tolist()
    assert palette.values == dict(enumerate(counts)) and palette.mode == 'P'
    assert wide.values == {k * 1000: n for k, n in enumerate(counts)}
    assert bits.values == {0: counts[0], 1: counts[1] + counts[2]}
    assert color.values == {
        (0, 0, 0): counts[0],
        (255, 0, 0): counts[1],
        (0, 8, 0): counts[2],
    }
    assert [f.colored for f in (palette, wide, color)] == [False, False, True]
    table = label_table([palette], {0: 'ground', 1: 'tree', 7: 'road'})
    share = f'{100 * counts[1] / index.size:.2f} %'
    assert f'{1:<16}{share:>10}{1:>8}  tree\n' in table
    assert f'{7:<16}{"0.00 %":>10}{0:>8}  road  <- no pixel' in table
    assert '(not a class)' in table


def test_processes_and_the_cache_find_the_same(tmp_path, monkeypatch):
    for k in range(70):
        save(labels(8, 8), tmp_path / f'{k}.png')
    paths = [tmp_path / f'{k}.png' for k in range(70)]
    cache = tmp_path / 'sub/cache.json'
    alone = inspect_labels(paths, workers=0)
    calls = []
    together = inspect_labels(
        paths, workers=2, cache=cache, progress=lambda *counts: calls.append(counts)
    )
    assert together == alone
    assert calls[-1] == (70, 70)
    save(labels(8, 9), paths[3])
    read = []
    real = inspection.read_values
    monkeypatch.setattr(
        inspection, 'read_values', lambda path, *rest: read.append(path) or real(path)
    )
    again = inspect_labels(paths, workers=0, cache=cache)
    assert read == [str(paths[3])]
    assert again[3].size == (9, 8) and again[:3] == alone[:3]
    cache.write_text('no JSON')
    assert inspect_labels(paths[:2], workers=0, cache=cache) == alone[:2]


def test_mean_and_std_are_those_of_all_pixels(tmp_path):
    first = picture(8, 8).astype(np.uint8)
    second = (picture(20, 30) // 4).astype(np.uint8)
    for name, pixels in dict(a=first, b=second, gray=first[..., 0]).items():
        save(pixels, tmp_path / f'{name}.png')
    found = inspect_images([tmp_path / f'{n}.png' for n in ('a', 'b', 'gray')], 0)
    mean, std = mean_and_std(found)
    pixels = np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])
    np.testing.assert_allclose(mean, pixels.mean(0))
    np.testing.assert_allclose(std, pixels.std(0))
    assert mean_and_std([]) == ([], [])


def test_progress_has_a_rate_and_the_time_left():
    stream = io.StringIO()
    line = ProgressLine('labels', stream)
    line.start -= 2
    line(100, 400)  # less than ten seconds later, which is not shown
    line.last -= 20
    line(200, 400)
    line(400, 400)
    assert stream.getvalue() == (
        '200 of 400 labels, 100 a second, 0:02 left\n'
        '400 of 400 labels, 200 a second, 0:00 left\n'
    )


def test_threads_of_opencv_do_not_stop_other_processes(tmp_path):
    """Each process of two would wait for threads that it does not have."""
    for k in range(64):
        save(picture(), tmp_path / f'{k}.jpg')
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 2)
        found = inspect_images(sorted(tmp_path.iterdir()), workers=2)
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)
    assert [image.error for image in found] == [''] * 64
