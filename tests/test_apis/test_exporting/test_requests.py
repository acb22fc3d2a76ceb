"""What can be refused before a model is loaded."""

import pytest

from mmmaskdistill.apis.exporting import Request, check_request, requests
from mmmaskdistill.errors import ConfigError


@pytest.mark.parametrize(
    ('name', 'form', 'expected'),
    [
        ('a.onnx', None, 'onnx'),
        ('a.ONNX', None, 'onnx'),
        ('a.b.pt2', None, 'pt2'),
        ('a.ts', None, 'torchscript'),
        ('a.torchscript', None, 'torchscript'),
        ('a.pt', 'torchscript', 'torchscript'),
        ('folder', 'huggingface', 'huggingface'),
        ('upernet-v1.5/', 'huggingface', 'huggingface'),
    ],
)
def test_format_follows_from_the_ending(tmp_path, name, form, expected):
    assert check_request(Request(f'{tmp_path}/{name}', form)) == expected


REFUSED = {
    'ending': (
        dict(out='a.engine'),
        r"a\.engine' ends with '\.engine'.*\.onnx for onn",
    ),
    'no ending': (dict(out='folder'), r"ends with '', .*--format huggingface"),
    'other ending': (
        dict(out='a.onnx', form='pt2'),
        r"a\.onnx' does not fit --format pt2: expected a file that ends with \.pt2",
    ),
    'file as a folder': (
        dict(out='a.onnx', form='huggingface'),
        'has the ending of onnx: expected the name of a folder',
    ),
    'format': (dict(out='a', form='tflite'), "'tflite': expected one of onnx, torch"),
    'missing folder': (
        dict(out='no where/a.onnx'),
        r"no where' does not exist. Make it first \(mkdir -p '.*no where'\)",
    ),
    'existing file': (dict(out='old.onnx'), r"old\.onnx' exists: .*--overwrite"),
    'existing weights': (dict(out='big.onnx'), r"big\.onnx\.data' exists: .*--overwr"),
    'existing folder': (
        dict(out='full', form='huggingface'),
        "full' is not empty: .*--overwrite",
    ),
    'folder as a file': (
        dict(out='full.onnx'),
        'is a folder: expected the name of a f',
    ),
    'file for a folder': (dict(out='old', form='huggingface'), 'is a file: expected'),
    'both sizes': (
        dict(out='a.onnx', size=(64, 64), dynamic=True),
        '--dynamic takes images of any size, --size of one: give one of the two',
    ),
    'dynamic trace': (
        dict(out='a.ts', dynamic=True),
        'a TorchScript trace holds one size of images. Give --size, or export to .onnx',
    ),
    'negative size': (
        dict(out='a.onnx', size=(64, -64)),
        '--size 64 -64: expected hei',
    ),
    'output': (dict(out='a.onnx', output='masks'), "'masks': expected one of labels"),
    'picture': (dict(out='a.onnx', images=('no.jpg',)), "no file or folder 'no.jpg'"),
    'half': (
        dict(out='a', form='huggingface', half=True),
        '--half has no effect with --format huggingface',
    ),
}


@pytest.mark.parametrize(('options', 'message'), REFUSED.values(), ids=REFUSED)
def test_wrong_requests_are_refused(tmp_path, options, message):
    (tmp_path / 'old.onnx').touch()
    (tmp_path / 'old').touch()
    (tmp_path / 'big.onnx.data').touch()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/README.md').touch()
    (tmp_path / 'full.onnx').mkdir()
    options = dict(options, out=f'{tmp_path}/{options["out"]}')
    with pytest.raises(ConfigError, match=message) as error:
        check_request(Request(**options))
    assert '\n' not in str(error.value)


def test_overwriting_is_allowed_when_asked_for(tmp_path):
    (tmp_path / 'a.onnx').touch()
    check_request(Request(f'{tmp_path}/a.onnx', overwrite=True))


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    find = requests.importlib.util.find_spec
    monkeypatch.setattr(
        requests.importlib.util,
        'find_spec',
        lambda name: None if name == 'onnxscript' else find(name),
    )
    with pytest.raises(ConfigError, match=r'onnxscript.*"mmmaskdistill\[onnx\]"'):
        check_request(Request(f'{tmp_path}/a.onnx'))
    check_request(Request(f'{tmp_path}/a.pt2'))
