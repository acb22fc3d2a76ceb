"""tools/analysis_tools/ablate.py with killed, failing and refused cells."""

import csv
import fcntl
import itertools
import json
import re
import runpy
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmmaskdistill.apis import ablation

TOOL = 'analysis_tools/ablate.py'
LOSSES = ['--loss', 'smooth_l1', 'cross_entropy']
OPTIMIZERS = ['--axis', 'optim_wrapper.optimizer.type', 'AdamW', 'NoSuch']
COMMON = [
    '--one-at-a-time',
    '--evaluate',
    'segment.py',
    '--probe',
    '--work-dir',
    'ablation',
]


def test_help_names_what_the_cells_can_be_made_of(capsys, monkeypatch):
    """The tool does not import the cells' module, so that --help answers at once."""
    path = Path(__file__).parents[2] / 'tools' / TOOL
    assert runpy.run_path(str(path))['AXES'] == (
        *ablation.SETTERS,
        ablation.COMBINATION,
    )
    monkeypatch.setattr('sys.argv', [TOOL, '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name='__main__')
    words = set(re.split(r'[^\w]+', capsys.readouterr().out))
    for values in (
        ablation.TEACHERS,
        ablation.NORMALIZERS,
        ablation.LOSSES,
        ablation.MASKS,
    ):
        assert set(values) <= words


def read_rows(workspace):
    with open(workspace / 'ablation/ablation.csv') as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def calls(workspace, run):
    """Two calls of the tool; the first one's pre-training is killed.

    Returns:
        tuple: Process and table rows of the first, then of the second call.
    """
    args = [TOOL, 'pretrain.py', *LOSSES, *OPTIMIZERS, *COMMON]
    first = run(*args, fails=True, DIE_AT='6')
    rows = read_rows(workspace)
    return first, rows, run(*args, fails=True), read_rows(workspace)


def test_failed_and_refused_cells_do_not_stop_the_others(calls):
    first, rows, _, _ = calls
    assert [row['status'] for row in rows] == ['failed', 'refused', 'failed']
    assert 'signal 9' in rows[0]['reason']
    assert 'use SmoothL1Loss' in rows[1]['reason']
    assert 'NoSuch' in rows[2]['reason']
    assert 'error: 2 of 3 runs failed' in first.err


def test_second_call_resumes_the_killed_run(calls, workspace):
    _, _, second, rows = calls
    assert [row['status'] for row in rows] == ['finished', 'refused', 'failed']
    folder = workspace / 'ablation/as_configured/seed_0'
    assert 'resuming' in (folder / 'pretrain.log').read_text()
    assert (folder / 'pretrain/epoch_4.pth').is_file()
    # The evaluation starts from the student that was just trained.
    assert 'epoch_4.pth' in (folder / 'segment.log').read_text()
    scalars = next((folder / 'segment').glob('*/vis_data/scalars.json'))
    last = [
        json.loads(line) for line in scalars.read_text().splitlines() if 'mIoU' in line
    ][-1]
    assert float(rows[0]['mIoU']) == last['mIoU']
    assert f'mIoU {last["mIoU"]:.2f}' in second.out
    probed = json.loads((folder / 'probe.json').read_text())['linear probe mIoU']
    assert list(probed) == ['student']
    assert float(rows[0]['linear probe mIoU']) == probed['student'] > 0
    wall, processor = map(float, (folder / 'pretrain.seconds').read_text().split())
    assert float(rows[0]['pretrain_processor_seconds']) == processor > 0
    assert float(rows[0]['seconds']) > wall > 0


def test_finished_cells_are_not_run_again(calls, tool, workspace, capsys):
    """A cell keeps its result when the optimizer axis is left out.

    The config already has the first optimizer of that axis, so this axis does not
    change the cell's name.
    """
    result = workspace / 'ablation/as_configured/seed_0/result.json'
    before = result.stat().st_mtime_ns
    tool(TOOL, 'pretrain.py', *LOSSES, *COMMON)
    assert '0 runs to do' in capsys.readouterr().out
    assert result.stat().st_mtime_ns == before
    table = (workspace / 'ablation/ablation.md').read_text().splitlines()
    metrics = json.loads(result.read_text())['metrics']
    miou, probe = metrics['mIoU'], metrics['linear probe mIoU']
    assert table[0] == '| axis | value | mIoU | linear probe mIoU | runs |  |'
    assert table[2] == f'| loss | smooth_l1 | {miou:.2f} | {probe:.2f} | 1 |  |'
    assert table[3].startswith('| loss | cross_entropy | - | - | 0 | refused: ')
    assert (workspace / 'ablation/ablation.png').is_file()


def test_a_damaged_result_is_made_again(calls, tool, workspace, capsys):
    folder = workspace / 'ablation/as_configured/seed_0'
    result = folder / 'result.json'
    whole = result.read_text()
    for text in ('', whole[:40], '[]', '{"status": "finished"}'):
        result.write_text(text)
        tool(TOOL, 'pretrain.py', *LOSSES, *COMMON)
        out = capsys.readouterr().out
        assert "result.json' is damaged" in out and '1 runs to do' in out
        assert json.loads(result.read_text())['metrics'] == json.loads(whole)['metrics']


def test_an_evaluation_that_is_added_later_is_run(calls, run, workspace):
    damaged = workspace / 'ablation/as_configured/seed_0/segment.seconds'
    damaged.write_text('')
    (workspace / 'again.py').write_text((workspace / 'segment.py').read_text())
    added = [word if word != 'segment.py' else 'again.py' for word in COMMON]
    added.insert(added.index('again.py'), 'segment.py')
    added.remove('--probe')
    assert '1 runs to do' in run(TOOL, 'pretrain.py', *LOSSES, *added).out
    assert float(damaged.read_text().split()[0]) > 0
    assert float(read_rows(workspace)[0]['again: mIoU']) > 0


def test_a_table_says_which_seeds_were_not_run(calls, tool, workspace, monkeypatch):
    module = runpy.run_path(str(Path(__file__).parents[2] / 'tools' / TOOL))
    cell = ablation.Cell(dict(loss='l1'), 'loss=l1', None)
    args = SimpleNamespace(seeds=3, axes=dict(loss=['l1']), one_at_a_time=False)
    table = module['Ablation'](args, [cell, cell], {})
    for seed, miou in ((0, 41.0), (2, 44.5)):
        outcome = dict(status='finished', metrics=dict(mIoU=miou))
        table.outcomes[0, seed] = outcome
    # The deviation of 41 and 44.5 from their mean is 1.75: sqrt(2 * 1.75^2 / 1).
    assert table.table(['mIoU']).splitlines()[2:] == [
        '| l1 | 42.75 ± 2.47 | 2 | not run with seed 1 |',
        '| l1 | - | 0 | not run |',
    ]


def test_a_student_that_does_not_fit_is_refused_before_it_is_trained(
    calls, tool, workspace, capsys
):
    text = (workspace / 'segment.py').read_text()
    assert text.count('embed_dims=48') == 1
    text = text.replace('embed_dims=48', 'embed_dims=24')
    (workspace / 'narrow.py').write_text(text)
    args = ['--loss', 'l1', '--evaluate', 'narrow.py', '--work-dir', 'misfit']
    with pytest.raises(SystemExit, match='none of the cells can be run'):
        tool(TOOL, 'pretrain.py', *args)
    out = capsys.readouterr().out
    assert 'refused: narrow: the student does not fit the backbone' in out
    assert not (workspace / 'misfit').exists()


def test_invalid_arguments_end_with_a_one_line_error(calls, tool, workspace):
    (workspace / 'also.py').write_text((workspace / 'segment.py').read_text())
    for message, args in [
        ('nothing to vary', ['pretrain.py', *COMMON]),
        ("config not found: 'no.py'", ['no.py', *LOSSES, *COMMON]),
        (
            "not found: 'no.py'. Give one as --evaluate",
            ['pretrain.py', *LOSSES, '--evaluate', 'no.py'],
        ),
        (
            'the names must differ',
            ['pretrain.py', *LOSSES, '--evaluate', 'segment.py', './segment.py'],
        ),
        (
            '--axis loss: the axis is given twice',
            ['pretrain.py', *LOSSES, '--axis', 'loss', 'l1', *COMMON],
        ),
        (
            'at most one segmentation',
            ['pretrain.py', *LOSSES, *COMMON, '--evaluate', 'segment.py', 'also.py'],
        ),
        (
            "--work-dir 'pretrain.py' cannot be used",
            ['pretrain.py', *LOSSES, *COMMON, '--work-dir', 'pretrain.py'],
        ),
        (
            'does not report NoSuch',
            ['pretrain.py', *LOSSES, *COMMON, '--metric', 'NoSuch'],
        ),
        ('--seeds 0', ['pretrain.py', *LOSSES, *COMMON, '--seeds', '0']),
        ("loss 'huber': expected", ['pretrain.py', *COMMON, '--loss', 'huber']),
        (
            'of another ablation',
            [
                'pretrain.py',
                *LOSSES,
                *COMMON,
                '--cfg-options',
                'train_cfg.max_epochs=5',
            ],
        ),
    ]:
        with pytest.raises(SystemExit) as error:
            tool(TOOL, *args)
        text = str(error.value)
        assert message in text and text.startswith('error: ')
        assert '\n' not in text


def test_folder_in_use_is_refused(tool, workspace):
    (workspace / 'busy').mkdir(exist_ok=True)
    with open(workspace / 'busy/.lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match='is in use'):
            tool(TOOL, 'pretrain.py', *LOSSES, *COMMON, '--work-dir', 'busy')


def test_curves_of_the_budgets_are_named_by_what_varies():
    """A point of a curve has the mean minutes, and the metric of each seed."""
    tool = runpy.run_path(str(Path(__file__).parents[2] / 'tools' / TOOL))
    axes = {
        'combination': ['as_configured', 'mask=none'],
        'train_cfg.max_epochs': ['3', '10'],
        'optim_wrapper.optimizer.lr': ['4e-3'],
    }
    cells = [
        ablation.Cell(dict(zip(axes, values, strict=True)), str(values), None)
        for values in itertools.product(*axes.values())
    ]
    study = tool['Ablation'](Namespace(axes=axes, seeds=2), cells, {})
    study.outcomes = {
        (i, seed): dict(
            status='finished',
            metrics=dict(mIoU=10.0 * i + seed),
            pretrain_processor_seconds=60.0 * (i + seed),
        )
        for i, seed in [(0, 0), (0, 1), (1, 0), (3, 1)]
    }
    assert study._by_length('train_cfg.max_epochs', 'mIoU') == {
        'as_configured': [(0.5, [0.0, 1.0]), (1.0, [10.0])],
        'mask=none': [(4.0, [31.0])],
    }
