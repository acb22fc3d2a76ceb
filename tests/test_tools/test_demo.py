"""tools/demo.py in a browser.

The server runs in this environment if it has gradio, or else in ``.venv-web`` of the
checkout.
"""

import importlib.util
import os
import os.path as osp
import re
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import numpy as np
import pytest
from helpers import trained
from helpers.chromium import Page, find_chromium
from PIL import Image

from mmmaskdistill.apis import load_model

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
OWN_ENVIRONMENT = osp.join(ROOT, '.venv-web/bin/python')
UPLOAD = '#mmd-upload input[type=file]'


def find_python():
    """Path of a Python that has gradio, or None."""
    if importlib.util.find_spec('gradio'):
        return sys.executable
    return OWN_ENVIRONMENT if osp.exists(OWN_ENVIRONMENT) else None


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Two checkpoints, and files to upload."""
    folder = tmp_path_factory.mktemp('demo')
    np.random.seed(0)
    for name in ('first', 'second'):
        trained.write(trained.segmentation(), folder / f'{name}.pth')
    colors = np.random.randint(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(colors)
    picture.resize((120, 80), Image.BICUBIC).save(folder / 'picture.png')
    (folder / 'broken.jpg').write_text('no image')
    picture.resize((1000, 1001)).save(folder / 'many_pixels.png')
    Image.effect_noise((700, 700), 90).save(folder / 'large.bmp')
    return folder


@pytest.fixture(scope='module')
def server(files):
    """The address of a server."""
    python = find_python()
    if find_chromium() is None:
        pytest.skip('chromium is not installed: apt-get install chromium')
    if python is None:
        pytest.skip('gradio is not installed, neither here nor in .venv-web')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([ROOT, os.environ.get('PYTHONPATH', '')]),
        'GRADIO_TEMP_DIR': str(files / 'uploads'),
    }
    process = subprocess.Popen(
        [
            *(python, osp.join(ROOT, 'tools/demo.py'), 'first.pth', 'second.pth'),
            *('--names', 'one', '<two>', '--port', str(port), '--device', 'cpu'),
            *('--max-megapixels', '1', '--max-megabytes', '0.4'),
        ],
        cwd=files,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith('the page is at '):
            break
    else:
        pytest.fail(''.join(lines))
    yield line.split()[-1]
    process.terminate()
    assert 'Traceback' not in process.communicate(timeout=30)[0]


@pytest.fixture(scope='module')
def browser(server, files):
    """The page in a browser."""
    with Page(files / 'profile') as page:
        page.open(server)
        page.wait_for(f"document.querySelector('{UPLOAD}') !== null")
        yield page


@pytest.fixture
def page(browser, server):
    """The page without a picture."""
    clear(browser)
    yield browser
    assert not browser.errors
    # The page works without any other server.
    outside = [
        address
        for address in browser.requests
        if not address.startswith((server, 'data:', 'blob:'))
    ]
    assert not outside


def clear(page):
    """Take the picture away."""
    page.evaluate("document.querySelector('#mmd-upload button[aria-label]')?.click()")
    page.wait_for(f"document.querySelector('{UPLOAD}') !== null")
    page.wait_for("document.body.innerText.includes('Drop a picture')")


def views(page, count=2):
    page.wait_for(f"document.querySelectorAll('.mmd-view').length === {count}")
    # All pictures are in the page itself.
    page.wait_for(
        "[...document.querySelectorAll('.mmd-stack img')].every(i => i.complete)"
    )


def box(page, selector):
    """Left, top, width and height of an element in the window."""
    return page.evaluate(
        '(r => [r.left, r.top, r.width, r.height])'
        f"(document.querySelector('{selector}').getBoundingClientRect())"
    )


def test_two_models_side_by_side(page, files):
    page.upload(UPLOAD, files / 'picture.png')
    views(page)
    texts = page.evaluate(
        "[...document.querySelectorAll('.mmd-view')].map(view => view.innerText)"
    )
    names = page.evaluate(
        "[...document.querySelectorAll('.mmd-view h2')].map(head => head.innerText)"
    )
    assert names == ['one', '<two>']
    for text, name in zip(texts, ('first', 'second')):
        model = load_model(files / f'{name}.pth', device='cpu')
        result = model.predict(str(files / 'picture.png'))
        found = dict(re.findall(r'(\w+)\n([\d.]+) %', text))
        shares = dict(zip(result.classes, result.shares()))
        expected = {k: f'{100 * v:.1f}' for k, v in shares.items() if v >= 5e-4}
        assert found == expected

    # The class under the mouse, at several points of the last model's picture
    left, top, width, height = box(page, '#mmd-1 .mmd-stack')
    assert width / height == pytest.approx(1.5, abs=0.01)
    for column, row in ((12, 16), (60, 40), (108, 24), (36, 72)):
        x, y = (column + 0.5) / 120, (row + 0.5) / 80
        page.move_mouse(left + x * width, top + y * height)
        label = result.labels[row, column]
        tip = "document.querySelector('#mmd-1 .mmd-tip')"
        page.wait_for(f"{tip}.textContent === '{result.classes[label]}'")
        assert page.evaluate(f"{tip}.style.display === 'block'")
    page.move_mouse(5, 5)
    page.wait_for(f"{tip}.style.display === 'none'")


def test_the_slider_changes_the_opacity(page, files):
    page.upload(UPLOAD, files / 'picture.png')
    views(page)
    opacity = "getComputedStyle(document.querySelector('.mmd-overlay')).opacity"
    for percent, expected in ((25, '0.25'), (60, '0.6')):
        page.evaluate(
            f'(slider => {{ slider.value = {percent}; slider.dispatchEvent(new Event('
            "'input', { bubbles: true })); })"
            "(document.querySelector('input[type=range]'))"
        )
        page.wait_for(f"{opacity} === '{expected}'")


def test_examples_can_be_chosen(page):
    page.wait_for("document.querySelector('#mmd-examples img') !== null")
    left, top, width, height = box(page, '#mmd-examples img')
    time.sleep(0.5)
    page.click(left + width / 2, top + height / 2)
    views(page)
    left, top, width, height = box(page, '.mmd-stack')
    assert height / width == pytest.approx(600 / 512, abs=0.01)


def test_files_that_cannot_be_shown_have_a_message(page, files):
    for name, text in [
        ('broken.jpg', 'cannot be shown: it contains no image that can be decoded'),
        ('many_pixels.png', 'has 1000 x 1001 pixels: expected at most 1 million'),
    ]:
        page.upload(UPLOAD, files / name)
        page.wait_for(f"document.body.innerText.includes('{text}')")
        assert page.evaluate("document.querySelectorAll('.mmd-view').length") == 0
        assert 'Traceback' not in page.evaluate('document.body.innerText')
        clear(page)
    page.upload(UPLOAD, files / 'large.bmp')
    page.wait_for(
        'document.body.innerText.match(/exceeds|too large|maximum/i) !== null'
    )
    assert 'Traceback' not in page.evaluate('document.body.innerText')
    # The page goes on.
    page.wait_for(f"document.querySelector('{UPLOAD}') !== null")
    page.upload(UPLOAD, files / 'picture.png')
    views(page)


def test_the_page_has_a_policy_and_no_fonts_of_others(server):
    with urlopen(server) as answer:
        policy = answer.headers['content-security-policy']
        text = answer.read().decode()
    assert policy.startswith("default-src 'self' data: blob:;")
    assert server.startswith('http://127.0.0.1:')
    assert 'family=' not in text


@pytest.mark.parametrize(
    'args, message',
    [
        (['a.pth'], "'a.pth'"),
        (['a.pth', '--names', 'a', 'b'], '--names has 2 names for 1 checkpoints'),
        (['a.pth', '--max-megapixels', '0'], 'expected more than 0'),
    ],
)
def test_mistakes_are_one_line(tool, args, message, monkeypatch):
    # Without it, the environment would be the mistake.
    monkeypatch.setitem(sys.modules, 'gradio', object())
    with pytest.raises(SystemExit) as caught:
        tool('demo.py', *args)
    text = str(caught.value.code)
    assert text.startswith('error: ') and '\n' not in text and message in text


def test_without_gradio_nothing_is_loaded(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(SystemExit) as caught:
        tool('demo.py', 'a.pth')
    assert str(caught.value.code) == (
        'error: the web page needs the package gradio: pip install '
        '"mmmaskdistill[web]", in an environment of its own, because gradio holds '
        'pillow back'
    )
