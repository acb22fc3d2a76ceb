"""Drive headless Chromium by the DevTools protocol over a pipe, without a package."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

EXECUTABLES = ('chromium', 'chromium-browser', 'google-chrome')


def find_chromium():
    """Path of Chromium, or None if it is not installed."""
    return next(filter(None, map(shutil.which, EXECUTABLES)), None)


class Page:
    """A page of a new browser, to be used as ``with Page(folder) as page:``.

    ``requests`` are the addresses that the page has asked for, and ``errors`` the
    exceptions of its scripts.
    """

    def __init__(self, folder, width=1400, height=1000):
        self.folder, self.size = folder, (width, height)
        self.requests, self.errors = [], []

    def __enter__(self):
        down_read, self._down = os.pipe()
        self._up, up_write = os.pipe()

        def connect():
            # Chromium reads from descriptor 3 and writes to 4.
            read, write = os.dup(down_read), os.dup(up_write)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self._process = subprocess.Popen(
            [
                find_chromium(),
                '--headless=new',
                '--no-sandbox',
                '--disable-gpu',
                '--disable-dev-shm-usage',
                '--disable-background-networking',
                '--no-first-run',
                '--hide-scrollbars',
                f'--user-data-dir={self.folder}',
                f'--window-size={self.size[0]},{self.size[1]}',
                '--remote-debugging-pipe',
            ],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        self._number, self._unread, self._session = 0, b'', None
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        attached = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'DOM'):
            self.send(f'{domain}.enable')
        width, height = self.size
        self.send(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._down)
        os.close(self._up)

    def send(self, method, timeout=60, **params):
        """Call a method of the protocol, and return its result."""
        self._number += 1
        call = dict(id=self._number, method=method, params=params)
        if self._session:
            call['sessionId'] = self._session
        os.write(self._down, json.dumps(call).encode() + b'\0')
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for answer in self._receive(deadline):
                if answer.get('id') == self._number:
                    assert 'error' not in answer, f'{method}: {answer["error"]}'
                    return answer['result']
        raise TimeoutError(f'{method} got no answer in {timeout} s')

    def _receive(self, deadline):
        ready, _, _ = select.select([self._up], [], [], deadline - time.monotonic())
        if ready:
            self._unread += os.read(self._up, 2**20)
        *answers, self._unread = self._unread.split(b'\0')
        answers = [json.loads(answer) for answer in answers]
        for event in answers:
            if event.get('method') == 'Network.requestWillBeSent':
                self.requests.append(event['params']['request']['url'])
            if event.get('method') == 'Runtime.exceptionThrown':
                self.errors.append(event['params']['exceptionDetails'])
        return answers

    def open(self, address):
        """Go to an address."""
        self.send('Page.navigate', url=address)

    def evaluate(self, script):
        """Return the value of an expression in JavaScript."""
        result = self.send(
            'Runtime.evaluate',
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def wait_for(self, script, timeout=60):
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            value = self.evaluate(script)
            if value:
                return value
            time.sleep(0.2)
        text = self.evaluate('document.body.innerText')
        raise TimeoutError(
            f'{script} stayed false for {timeout} s on the page:\n{text}'
        )

    def upload(self, selector, path):
        """Choose a file in an ``<input type="file">``."""
        root = self.send('DOM.getDocument')['root']['nodeId']
        node = self.send('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.send('DOM.setFileInputFiles', files=[str(path)], nodeId=node)

    def move_mouse(self, x, y):
        """Move the mouse to a point of the window, in pixels."""
        self.send('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

    def click(self, x, y):
        """Click at a point of the window."""
        for kind in ('mousePressed', 'mouseReleased'):
            self.send(
                'Input.dispatchMouseEvent',
                type=kind,
                x=x,
                y=y,
                button='left',
                clickCount=1,
            )

    def screenshot(self, path):
        """Write what the window shows to a PNG file."""
        data = self.send('Page.captureScreenshot', format='png')['data']
        with open(path, 'wb') as file:
            file.write(base64.b64decode(data))
