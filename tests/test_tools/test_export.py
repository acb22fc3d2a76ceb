"""tools/export.py on the command line."""

import json

import pytest
import torch
from helpers import trained
from helpers.small_disk import largest_file

from mmmaskdistill.apis import load_model


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('trained') / 'segment.pth'
    return trained.write(trained.segmentation(), path)


def test_a_file_and_a_folder_are_written(tool, checkpoint, tmp_path, capsys):
    out = tmp_path / 'a.torchscript'
    tool('export.py', checkpoint, out, '--size', 64, 96, '--output', 'logits')
    assert f'{out}: largest difference ' in capsys.readouterr().out
    assert torch.jit.load(out)(torch.zeros(2, 3, 64, 96)).shape == (2, 4, 64, 96)

    metrics = tmp_path / 'm.json'
    metrics.write_text(json.dumps(dict(mIoU=40.25)))
    folder = tmp_path / 'folder'
    options = ['--format', 'huggingface', '--metrics', metrics, '--license', 'mit']
    tool('export.py', checkpoint, folder, *options)
    card = (folder / 'README.md').read_text()
    assert '| mIoU | 40.25 |' in card and 'license: "mit"' in card
    assert load_model(folder, device='cpu').classes == trained.CLASSES
    # The folder is a checkpoint again.
    tool('export.py', folder, tmp_path / 'b.ts')


def test_mistakes_end_with_one_line(tool, checkpoint, tmp_path):
    for message, args in [
        ("checkpoint not found: 'no.pth'", ['no.pth', 'a.onnx']),
        ("config not found: 'no.py'", [checkpoint, 'a.onnx', '--config', 'no.py']),
        ("ends with '.trt', which is no format", [checkpoint, 'a.trt']),
        ("'nowhere/a.ts' cannot be written", [checkpoint, 'nowhere/a.ts']),
        ('100 is not a multiple of 16', [checkpoint, 'a.ts', '--size', 100, 64]),
        ('--license belongs to --format', [checkpoint, 'a.ts', '--license', 'mit']),
        (
            "--push 'x': expected USER/NAME",
            [checkpoint, 'a', '--format', 'huggingface', '--push', 'x'],
        ),
        (
            "--metrics 'no.json' cannot be read",
            [checkpoint, 'a', '--format', 'huggingface', '--metrics', 'no.json'],
        ),
    ]:
        with pytest.raises(SystemExit) as error:
            tool('export.py', *args)
        text = str(error.value)
        assert message in text and text.startswith('error: ')
        assert '\n' not in text


@pytest.mark.parametrize('out', ['a.ts', 'a.pt2', 'folder'])
def test_a_full_disk_ends_with_one_line(tool, checkpoint, tmp_path, out):
    options = ['--format', 'huggingface'] if out == 'folder' else []
    with largest_file(4096), pytest.raises(SystemExit, match='^error: cannot write to'):
        tool('export.py', checkpoint, tmp_path / out, *options)
    assert not list(tmp_path.iterdir())
