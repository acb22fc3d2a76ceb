"""The check of data and config, alone and before training and testing."""

import re

import numpy as np
import pytest
from PIL import Image

TOOL = 'analysis_tools/check_data.py'
DATA = '_dataloader.dataset.data_root'


@pytest.fixture
def broken(workspace, tmp_path):
    """A folder with one label that is no class and one image without a label."""
    rng = np.random.default_rng(0)
    for name in ('images', 'annotations'):
        (tmp_path / name).mkdir()
    for k in range(4):
        image = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        labels = rng.integers(0, 5, (80, 96), dtype=np.uint8)
        labels[0, 0] = 200 if k == 1 else 0
        Image.fromarray(image).save(tmp_path / f'images/{k}.jpg')
        Image.fromarray(labels).save(tmp_path / f'annotations/{k}.png')
    (tmp_path / 'annotations/3.png').unlink()
    return tmp_path


def test_all_errors_are_printed_at_once(tool, broken, capsys):
    change = ['--cfg-options', *(f'{name}{DATA}={broken}' for name in ('train', 'val'))]
    change.append('train_dataloader.batch_size=2')
    for arguments in (
        [TOOL, 'segment.py', '--workers', '0', '--no-cache', *change],
        [TOOL, 'segment.py', '--quick', *change],
        ['train.py', 'segment.py', '--work-dir', 'never', *change],
    ):
        with pytest.raises(SystemExit) as e:
            tool(*arguments)
        lines = str(e.value).split('\n')
        assert all(line.startswith('error: ') for line in lines)
        assert (
            f'1 of 4 labels of train{DATA[:-10]} does not exist: '
            f'{broken}/annotations/3.png'
        ) in lines[0]
        assert f"'{broken}/annotations/1.png' has label 199 (the file has " in lines[1]
        # The images to train and to evaluate on are the same.
        out = ' '.join(capsys.readouterr().out.replace('\n  ', ' ').split())
        assert 'are also trained on: ' in out


def test_warnings_are_framed_and_the_status_is_0(tool, workspace, capsys):
    tool(TOOL, 'segment.py', '--workers', '0', '--cache', 'cache.json')
    captured = capsys.readouterr()
    lines = captured.out.strip().split('\n')
    assert lines[-1] == 'no errors'
    frame = lines[:-1]
    assert re.fullmatch('=+ [0-9] warnings =+', frame[0]) and set(frame[-1]) == {'='}
    assert all(len(line) <= 88 for line in frame if str(workspace) not in line)
    assert '* 146 classes without a pixel in all 16 labels of' in captured.out
    assert '16 of 16 images of train_dataloader.dataset, ' in captured.err
    assert (workspace / 'cache.json').is_file()


def test_warnings_are_in_the_log_before_the_first_iteration(tool, workspace, capsys):
    tool(
        'train.py',
        'segment.py',
        '--work-dir',
        'warned',
        '--no-validate',
        '--cfg-options',
        'train_cfg.max_iters=1',
        'param_scheduler=None',
        'train_dataloader.num_workers=0',
    )
    frame = re.compile(r'=+ 1 warning =+\n\* 146 classes without a pixel')
    (log,) = (workspace / 'warned').glob('*/*.log')
    text = log.read_text()
    (match,) = frame.finditer(text)
    assert match.start() < text.index('Iter(train)')
    # It is printed before the model is built, and again with the log.
    assert len(frame.findall(capsys.readouterr().out)) >= 1


@pytest.mark.parametrize(
    'name, rest',
    [
        ('train.py', []),
        ('test.py', ['none.pth']),
        (TOOL, []),
        ('analysis_tools/get_flops.py', []),
        ('analysis_tools/ablate.py', ['--teacher', 'pixels']),
    ],
)
def test_options_without_a_value_end_with_one_line(tool, workspace, name, rest):
    for option in ('a.b', '=3'):
        with pytest.raises(SystemExit) as e:
            tool(name, 'segment.py', *rest, '--cfg-options', 'c=1', option)
        assert str(e.value).startswith(
            f"error: --cfg-options '{option}': expected KEY=VALUE, such as "
        )
        assert '\n' not in str(e.value)


def test_a_missing_config_ends_with_one_line(tool, workspace):
    with pytest.raises(SystemExit, match="error: config not found: 'none.py'"):
        tool(TOOL, 'none.py')
