"""The report runs its steps within their time, keeps results and names what failed."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import attention, measure, profiling
from benchmarks.peaks import peak_rate
from gpu_report import command, machine, markdown, running, steps, wheels
from gpu_report.running import Part, Report, Step

from mmmaskdistill.models.layers import attention_kernels

ROOT = Path(__file__).parents[2]
MACHINE = dict(
    device='cpu',
    name='A Processor',
    memory=None,
    torch='2.9.0',
    cuda=None,
    driver=None,
    python='3.11.2',
    cores=2,
    commit='abc1234567',
)


def python(code):
    return ['{python}', '-c', code]


def write(value='dict(a=1)', more=''):
    return python(f"import json; json.dump({value}, open('{{out}}', 'w')); {more}")


@pytest.fixture
def report(tmp_path):
    def report(seconds=60, **changes):
        return Report(tmp_path, dict(MACHINE, **changes), seconds, 'bash report.sh')

    return report


def test_results_are_kept_and_complete_steps_do_not_run_again(report, capsys):
    step = Step(2, 'Two', [Part('a', 'first', write()), Part('b', 'second', write())])
    assert report().run([step])
    record = report().load(2)
    assert record['status'] == 'complete' and record['machine'] == MACHINE
    assert [part['result'] for part in record['parts'].values()] == [dict(a=1)] * 2
    capsys.readouterr()
    assert report().run([step])
    assert report().load(2) == record
    assert capsys.readouterr().out == (
        f'== step 2, Two: complete, from {record["date"]}\n'
    )


def test_another_commit_or_gpu_is_measured_again(report, capsys):
    step = Step(2, 'Two', [Part('a', 'first', write())])
    assert report().run([step])
    assert report(commit='def', name='Another').run([step])
    assert (
        'step 2 was measured on A Processor, at commit abc1234567; it is run again on '
        'Another, at commit def\n'
    ) in capsys.readouterr().out
    assert report().load(2)['machine']['commit'] == 'def'


def test_failed_part_is_recorded_and_the_others_go_on(report):
    bad = python("print('one'); raise SystemExit('two')")
    first = Step(1, 'One', [Part('bad', 'bad', bad), Part('good', 'good', write())])
    last = Step(2, 'Two', [Part('a', 'a', write())])
    assert not report().run([first, last])
    record = report().load(1)
    assert record['status'] == 'failed'
    assert record['parts']['bad']['last_lines'] == ['one', 'two']
    assert record['parts']['good']['status'] == 'complete'
    assert report().load(2)['status'] == 'complete'
    # What was complete stays as it is, and what failed runs again.
    date = record['parts']['good']['seconds']
    mended = Step(1, 'One', [Part('bad', 'bad', write()), first.parts[1]])
    assert report().run([mended])
    record = report().load(1)
    assert record['status'] == 'complete' and record['parts']['good']['seconds'] == date
    log = (report().folder / 'steps/1.log').read_text()
    assert 'one\ntwo\n' in log and log.count('\n$ ') == 3


@pytest.mark.parametrize(
    'part, message',
    [
        (Part('a', 'a', python('')), 'the result cannot be read: FileNotFoundError'),
        (Part('a', 'a', ['/no/such/program']), "No such file or directory: '/no/such"),
        (Part('a', 'a', python("open('{out}', 'w').write('{')")), 'JSONDecodeError'),
    ],
)
def test_commands_without_a_result_have_failed(report, part, message):
    assert not report().run([Step(1, 'One', [part])])
    found = report().load(1)['parts']['a']
    assert found['status'] == 'failed' and found['result'] is None
    assert message in '\n'.join(found['last_lines'])


def is_alive(pid):
    stat = Path(f'/proc/{pid}/stat')
    return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] not in 'ZX'


STUBBORN = """
import json, os, signal, subprocess, sys, time
code = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'
child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
time.sleep(0.3)  # The child ignores the signal from now on.
with open('{dir}/pids.tmp', 'w') as file:
    json.dump([os.getpid(), child.pid], file)
os.rename('{dir}/pids.tmp', '{dir}/pids')
print('waiting')
time.sleep(600)
"""


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs /proc')
def test_part_out_of_time_is_killed_with_its_children(report, monkeypatch):
    monkeypatch.setattr(running, 'GRACE', 0.2)
    monkeypatch.setattr(running, 'LEAST', 0.0)
    slow = Part('slow', 'slow', python(STUBBORN))
    first = Step(1, 'One', [slow], weight=0.1)
    later = Step(2, 'Two', [Part('a', 'a', write())])
    assert not report(30).run([first, later])
    record = report().load(1)
    assert record['status'] == 'timed out'
    found = record['parts']['slow']
    assert found['last_lines'] == ['waiting']
    assert found['limit'] == pytest.approx(30 * 0.1 / 1.1, abs=0.5)
    pids = json.loads((report().folder / 'pids').read_text())
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
    assert report().load(2)['status'] == 'complete'


def test_steps_after_the_end_of_the_time_are_not_run(report):
    step = Step(3, 'Three', [Part('a', 'first', write())])
    assert not report(0.5).run([step])
    record = report().load(3)
    assert record['status'] == 'not run'
    text = markdown.write_report(report(), [step], tiny=False)
    assert '### What was not run\n\n- step 3, first: no time was left for it' in text
    assert report().run([step])


def test_interrupted_report_can_be_finished(report, monkeypatch):
    call = running.call

    def interrupted(words, *args):
        if 'b=2' in words[-1]:
            raise KeyboardInterrupt
        return call(words, *args)

    parts = [Part('a', 'first', write()), Part('b', 'second', write('dict(b=2)'))]
    step = Step(2, 'Two', parts)
    monkeypatch.setattr(running, 'call', interrupted)
    with pytest.raises(KeyboardInterrupt):
        report().run([step])
    record = report().load(2)
    assert record['status'] == 'interrupted'
    assert [p['status'] for p in record['parts'].values()] == [
        'complete',
        'interrupted',
    ]
    monkeypatch.undo()
    assert report().run([step])
    assert report().load(2)['parts']['b']['result'] == dict(b=2)


def test_result_of_a_part_that_was_cut_stays_until_there_is_another(
    report, monkeypatch
):
    monkeypatch.setattr(running, 'LEAST', 0.0)
    flag = report().folder / 'flag'
    code = f"""
import json, os, time
if os.path.exists('{flag}'): raise SystemExit('sorry')
json.dump(dict(a=1), open('{{out}}', 'w')); open('{flag}', 'w'); time.sleep(600)
"""
    step = Step(2, 'Two', [Part('a', 'first', python(code))])
    run = report(3)
    run.run([step])
    part = run.load(2)['parts']['a']
    assert (part['status'], part['result']) == ('timed out', dict(a=1))
    assert markdown._results(run.load(2))['a']['title'] == 'first (timed out)'
    for seconds, status in ((0.5, 'not run'), (60, 'failed')):
        assert not report(seconds).run([step])
        part = run.load(2)['parts']['a']
        assert (part['status'], part['result']) == (status, dict(a=1))
    # The result is not that of another command.
    assert report().run([Step(2, 'Two', [Part('a', 'first', write('dict(b=2)'))])])
    assert run.load(2)['parts']['a']['result'] == dict(b=2)


def test_interrupted_part_keeps_what_it_has_measured(report, monkeypatch):
    def call(words, *args):
        Path(words[-1]).write_text('{"a": 1}')
        raise KeyboardInterrupt

    monkeypatch.setattr(running, 'call', call)
    step = Step(2, 'Two', [Part('a', 'first', ['program', '{out}'])])
    with pytest.raises(KeyboardInterrupt):
        report().run([step])
    part = report().load(2)['parts']['a']
    assert (part['status'], part['result']) == ('interrupted', dict(a=1))


def side(seconds, **changes):
    return {
        **dict(median=seconds, low=seconds, high=2 * seconds),
        **dict(images_per_second=8 / seconds, peak_bytes=2e9, state_bytes=1e9),
        **dict(share_of_product_rate=0.5, share_of_peak_rate=None),
        **dict(kept_bytes_per_image=72e6),
        **changes,
    }


def measured(batch, left_out=(), **sides):
    return dict(batch=batch, sides=sides, left_out=dict(left_out))


def make_loading():
    data = dict(pipelines=dict(ours=dict(median=0.002)))
    seconds = dict(whole=0.002, cut=0.001, device=0.0001)
    split = {name: dict(median=median) for name, median in seconds.items()}
    split.update(levels=1, differing=2e-6, batch=256)
    return [
        Part('pipelines', 'one core', write(data)),
        Part('split', 'core and device', write(dict(split=split))),
    ]


def test_report_has_a_table_per_step_and_invents_nothing(report):
    result = dict(
        sweeps=dict(batch=[measured(8, dict(timm='out of memory'), ours=side(0.5))])
    )
    result['sweeps']['batch'].append(
        measured(4, ours=side(0.25, share_of_peak_rate=0.42), timm=side(0.75))
    )
    loading = make_loading()
    failing = python("raise SystemExit('no | memory')")
    chosen = [
        Step(2, 'Pre-training', [Part('base', 'ViT-B/16', write(result))]),
        Step(3, 'Fine-tuning', [Part('a', 'UperNet', failing)]),
        Step(5, 'Data loading', loading),
        Step(6, 'Quickstart', [Part('quickstart', 'quickstart.sh', write())]),
    ]
    gpu = dict(device='cuda', name='NVIDIA H100 PCIe', driver='580.1', cuda='13.0')
    gpu['memory'] = 80 * 2**30
    assert not report(**gpu).run(chosen[:3])
    text = markdown.write_report(report(**gpu), chosen, tiny=False)
    assert text.startswith('## On one NVIDIA H100 PCIe\n')
    rest = '| 50% | 3 GB | 72 |'
    for line in (
        '| memory | 80 GiB |',
        '| driver | 580.1 |',
        '| commit | abc1234567 |',
        '| command | `bash report.sh` |',
        f'| ViT-B/16 | MMMaskDistill | 8 | 0.5 (0.5 to 1) | - | 16 | - {rest}',
        '|  | timm | 8 | out of memory | - | - | - | - | - | - |',
        f'|  | MMMaskDistill | 4 | 0.25 (0.25 to 0.5) | - | 32 | 42.0% {rest}',
        f'|  | timm | 4 | 0.75 (0.75 to 1.5) | 3.00 x | 10.7 | - {rest}',
        # 32 images/s on the GPU, 500 images/s on a core.
        '| MMMaskDistill | 2 | 500 | 0.1 |',
        '| a core | 2 | 500 | 0.1 | - | - | - |',
        '| the device | 1 | 1000 | 0.0 | 50% | 10000 | 0.3% |',
        '      no | memory',
        '- step 6, quickstart.sh',
    ):
        assert line in text.splitlines(), line
    assert re.search(r'- step 3, UperNet: failed after \d+ s', text)
    assert '### Fine-tuning' not in text and '### Quickstart' not in text
    # The numbers of a GPU do not appear in the report of another one.
    text = markdown.write_report(report(), chosen, tiny=False)
    assert '### Pre-training' not in text and '- step 2, ViT-B/16' in text


def test_columns_that_need_a_gpu_are_empty_on_a_cpu(report):
    groups = dict.fromkeys(profiling.GROUPS, 0.001)
    profile = dict(groups=groups, idle_seconds=None, step_seconds=0.01, batch=2)
    loading = make_loading()
    chosen = [
        Step(2, 'Two', [Part('base', 'B', write(measured(8, ours=side(0.5))))]),
        Step(4, 'Four', [Part('plain', 'not compiled', write(profile))]),
        Step(5, 'Five', loading),
    ]
    assert report().run(chosen)
    lines = markdown.write_report(report(), chosen, tiny=True).splitlines()
    for line in (
        '| driver | - |',
        '| CUDA | - |',
        '| idle | - | - |',
        '| norms | 1 | 11.1% |',
        '| step without the profiler | 10 |  |',
        '| MMMaskDistill | 2 | 500 | - |',
        '| the device | 1 | 1000 | - | 50% | 10000 | - |',
        '| B | MMMaskDistill | 8 | 0.5 (0.5 to 1) | - | 16 | - | 50% | 3 GB | 72 |',
    ):
        assert line in lines, line
    assert lines[2].startswith('All models and images are tiny')


@pytest.fixture
def gpu_tests(tmp_path):
    """A part like that of the report, for the tests of another file."""

    def gpu_tests(content):
        file = tmp_path / 'test_some.py'
        file.write_text(content)
        part = steps.tests()[0]
        words = list(part.command)
        words[words.index('tests/test_gpu') :] = ['-c', os.devnull, str(file)]
        words += ['--rootdir', str(tmp_path)]
        del words[words.index('-m', 3) : words.index('-m', 3) + 2]
        return replace(part, title='tests', command=words)

    return gpu_tests


def test_tests_are_counted_and_failed_ones_are_named(report, gpu_tests):
    part = gpu_tests(
        'import pytest\n'
        'def test_good(): pass\n'
        "def test_bad(): assert 1 == 2, 'not | equal'\n"
        "@pytest.mark.parametrize('k', [1, 2])\n"
        "def test_gpu(k): pytest.skip('needs a GPU')\n"
        '@pytest.fixture\n'
        "def broken(): raise ValueError('no\\nfixture')\n"
        'def test_error(broken): pass\n'
        '@pytest.fixture\n'
        "def late():\n    yield\n    raise ValueError('late')\n"
        'def test_late(late): pass\n'
        "@pytest.mark.xfail(reason='slow')\n"
        'def test_expected(): assert False\n'
    )
    step = Step(1, 'Tests', [part])
    assert not report().run([step])
    record = report().load(1)
    result = record['parts']['tests']['result']
    assert record['status'] == 'failed'
    assert result['counts'] == dict(passed=1, failed=3, skipped=3)
    assert len(result['seconds']) == 7 and result['running'] is None
    text = markdown.write_report(report(), [step], tiny=False)
    assert '| tests (failed) | 1 | 3 | 3 |' in text and '| 2 | needs a GPU |' in text
    assert '| 1 | expected to fail: slow |' in text
    assert '| `test_some::test_bad` | AssertionError: not \\| equal |' in text
    assert '| `test_some::test_error` | ValueError: no |' in text


@pytest.mark.parametrize('end', ['os.kill(os.getpid(), 9)', 'time.sleep(600)'])
def test_outcomes_of_tests_that_are_cut_are_kept(end, report, gpu_tests, monkeypatch):
    monkeypatch.setattr(running, 'LEAST', 0.0)
    monkeypatch.setattr(running, 'GRACE', 0.2)
    part = gpu_tests(
        f'import os, time\ndef test_good(): pass\ndef test_last(): {end}\n'
    )
    step = Step(1, 'Tests', [part])
    assert not report(10).run([step])
    result = report().load(1)['parts']['tests']['result']
    assert result['counts'] == dict(passed=1, failed=0, skipped=0)
    text = markdown.write_report(report(), [step], tiny=False)
    assert '| `test_some::test_last` | was running when the tests were cut |' in text


def test_command_measures_writes_and_finishes_a_report(tmp_path, monkeypatch, capsys):
    """With a real measurement: the first part of step 2, at tiny sizes."""
    real = steps.make_steps('cpu', tiny=True)[1]

    def few(device, tiny):
        assert (device, tiny) == ('cpu', True)
        return [Step(2, real.title, real.parts[:1])]

    monkeypatch.setattr(command, 'make_steps', few)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    options = ['--device', 'cpu', '--tiny', '--steps', '2', '--out', str(tmp_path)]
    assert command.main(options) == 0
    record = json.loads((tmp_path / 'steps/2.json').read_text())
    sides = record['parts']['base']['result']['sides']
    assert set(sides) == {'ours', 'timm', 'mmpretrain'}
    assert all(side['share_of_peak_rate'] is None for side in sides.values())
    text = (tmp_path / 'report.md').read_text()
    ratio = sides['timm']['median'] / sides['ours']['median']
    assert f'| {ratio:.2f} x |' in text and 'All models and images are tiny' in text
    assert f'--steps 2 --out {tmp_path}`' in text
    assert 'Quickstart' not in text and '### What failed' not in text
    capsys.readouterr()
    assert command.main(options) == 0
    assert 'Pre-training: complete, from' in capsys.readouterr().out


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('tiny', [False, True])
def test_benchmarks_know_the_options_of_all_steps(device, tiny, monkeypatch):
    tool = ROOT / 'tools/analysis_tools/benchmark.py'
    parse_args = runpy.run_path(str(tool))['parse_args']
    jobs = []
    for step in steps.make_steps(device, tiny):
        assert len({part.name for part in step.parts}) == len(step.parts)
        for part in step.parts:
            if str(part.command[1]).endswith('benchmark.py'):
                monkeypatch.setattr(sys, 'argv', list(part.command[1:]))
                args = parse_args()
                jobs.append(args.job)
                if step.number in (2, 3):
                    assert args.until_all_fit == (device == 'cuda' and not tiny)
                    assert args.device == device
    # Six comparisons (at tiny sizes, ViT-L is ViT-B), and one step for each way of
    # attention that the device has.
    assert jobs.count('pretrain') == 6 - 2 * tiny + (4 if device == 'cuda' else 2)
    assert {'profile', 'attention', 'transfer', 'data', 'eval'} <= set(jobs)


def test_cuda_without_a_gpu_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, 'PROBE', 'print("some warning\\nnull")')
    with pytest.raises(
        SystemExit, match='^error: --device cuda, but torch finds no GPU'
    ):
        command.main(['--out', str(tmp_path / 'report')])
    assert not (tmp_path / 'report').exists()
    with pytest.raises(SystemExit, match='--minutes 0: expected a positive number'):
        command.main(['--minutes', '0'])


def test_two_reports_do_not_write_to_the_same_folder(tmp_path, monkeypatch):
    found = json.dumps(dict(name='A Processor', memory=None, torch='2.9.0', cuda=None))
    monkeypatch.setattr(machine, 'PROBE', f'print({found!r})')
    monkeypatch.setattr(command, 'make_steps', lambda *args: [])
    words = ['--device', 'cpu', '--tiny', '--out', str(tmp_path / 'a b')]
    with (
        running.locked(tmp_path / 'a b'),
        pytest.raises(SystemExit, match='^error: another report .*/a b, and two'),
    ):
        command.main(words)
    assert command.main(words) == 0
    (tmp_path / 'file').write_text('')
    for name in ('file', 'file/report'):
        with pytest.raises(SystemExit, match=f'^error: --out {tmp_path}/{name}: '):
            command.main([*words[:-1], str(tmp_path / name)])


@pytest.mark.skipif(running._PRCTL is None, reason='needs Linux')
def test_measurement_ends_if_the_report_is_killed(tmp_path):
    code = f"""
import json, os, signal, sys
from gpu_report.running import call
sys.stdin.close()
program = "import os, time; open('{tmp_path}/pid', 'w').write(str(os.getpid())); "
call([sys.executable, '-c', program + 'time.sleep(600)'], 600, sys.stdout, os.environ)
"""
    folders = [str(ROOT / 'tools'), str(ROOT / 'tools/analysis_tools')]
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(folders)},
    )
    deadline, pid = time.monotonic() + 30, tmp_path / 'pid'
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while is_alive(pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid.read_text())


@pytest.mark.parametrize('in_use, named', [(2**29, False), (5 * 2**30, True)])
def test_memory_that_other_processes_use_is_named(
    in_use, named, report, monkeypatch, tmp_path, capsys
):
    found = dict(name='NVIDIA L4', memory=24 * 2**30, torch='2.9.0', cuda='13.0')
    found = json.dumps(dict(found, in_use=in_use))
    monkeypatch.setattr(machine, 'PROBE', f'print({found!r})')
    monkeypatch.setattr(command, 'make_steps', lambda *args: [])
    assert command.main(['--out', str(tmp_path)]) == 0
    said = '5.0 GiB of the GPU were in use when the report began'
    assert (f'warning: {said}' in capsys.readouterr().out) == named
    assert (said in (tmp_path / 'report.md').read_text()) == named


def test_script_prints_its_help(tmp_path):
    script = ROOT / 'tools/analysis_tools/gpu_report.sh'
    done = subprocess.run(
        ['bash', script, '--help'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHON': sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith(
        'usage: bash tools/analysis_tools/gpu_report.sh'
    )


def test_state_of_the_checkout_is_named(tmp_path):
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/a.py').write_text('a = 1')
    unknown = machine.commit(tmp_path)
    assert re.fullmatch('unknown, sources [0-9a-f]{8}', unknown)

    def git(*words):
        name = ['-c', 'user.name=a', '-c', 'user.email=a@b']
        subprocess.run(['git', *name, *words], cwd=tmp_path, check=True)

    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'first')
    clean = machine.commit(tmp_path)
    assert re.fullmatch('[0-9a-f]{10}', clean)
    changed = []
    for text in ('a = 2', 'a = 3'):
        (tmp_path / 'tools/a.py').write_text(text)
        changed.append(machine.commit(tmp_path))
    assert changed[0].startswith(f'{clean} with changes ') and changed[0] != changed[1]


def test_wheels_are_what_the_project_requires():
    needed = wheels.needed('timm', ())
    assert {'torch', 'torchvision', 'numpy', 'pytest', 'setuptools'} <= set(needed)
    assert 'timm' not in needed and 'mmengine' not in needed
    assert not any('+' in version for version in needed.values())
    lines = wheels.HEAD.splitlines()
    assert all(line.startswith('#') for line in lines)
    assert any('pip install --no-index --find-links wheels' in line for line in lines)


@pytest.mark.parametrize(
    'name, rate',
    [
        ('NVIDIA H100 80GB HBM3', 989.5e12),
        ('NVIDIA H100 PCIe', 756.5e12),
        ('NVIDIA H100 NVL', 835.5e12),
        ('NVIDIA H200', 989.5e12),
        ('NVIDIA H200 NVL', None),
        ('NVIDIA A100-SXM4-40GB', 312e12),
        ('NVIDIA A100-SXM4-80GB', 312e12),
        ('NVIDIA A100 80GB PCIe', 312e12),
        ('A100-PCIE-40GB', 312e12),
        ('NVIDIA A10', 125e12),
        ('NVIDIA A30', 165e12),
        ('NVIDIA A40', 149.7e12),
        ('NVIDIA L4', 121e12),
        ('NVIDIA L40S', 362e12),
        ('NVIDIA GeForce RTX 3090', 71e12),
        ('NVIDIA GeForce RTX 4090', 165.2e12),
        ('NVIDIA A100-SXM4-40GB MIG 1g.5gb', None),
        ('NVIDIA H100 80GB HBM3 MIG 3g.40gb', None),
        ('GRID A100-10C', None),
        ('NVIDIA A40-8Q', None),
        ('NVIDIA A100-SXM-64GB', None),
        ('NVIDIA A10G', None),
        ('NVIDIA L40', None),
        ('NVIDIA H20', None),
        ('NVIDIA H800', None),
        ('NVIDIA GH200 480GB', None),
        ('NVIDIA B200', None),
        ('Tesla T4', None),
        ('NVIDIA GeForce RTX 3090 Ti', None),
        ('NVIDIA GeForce RTX 4090 D', None),
        ('NVIDIA GeForce RTX 4090 Laptop GPU', None),
        ('NVIDIA GeForce RTX 5090', None),
        ('NVIDIA RTX A6000', None),
        ('AMD Instinct MI300X', None),
        ('', None),
    ],
)
def test_peak_rates_are_those_of_the_same_gpu(name, rate):
    assert peak_rate(name) == rate


def event(name, parent=None, kernels=(), time=1.0, gpu=False, label=False):
    kind = torch.autograd.DeviceType
    return Namespace(
        name=name,
        cpu_parent=parent,
        device_type=kind.CUDA if gpu else kind.CPU,
        is_user_annotation=label,
        self_cpu_time_total=time,
        time_range=Namespace(elapsed_us=lambda: time),
        kernels=[Namespace(name=n, duration=t) for n, t in kernels],
    )


def test_kernels_are_assigned_to_groups():
    attention = event('_BiasedAttentionBackward')
    step = event('Optimizer.step#AdamW.step')
    teacher = event(profiling.TEACHER)
    events = [
        event('aten::bmm', attention, [('gemm', 4.0)]),
        event('aten::sum', attention, [('reduce', 3.0)]),
        event('aten::bmm', event('_BiasedAttention'), [('gemm', 2.0)]),
        event('aten::mm', event('_RecomputingLinearBackward'), [('gemm', 16.0)]),
        event('aten::native_layer_norm', None, [('norm', 1.5)]),
        event('aten::native_layer_norm', teacher, [('norm', 0.5)]),
        event('aten::_fused_adamw_', step, [('adamw', 8.0)]),
        event('aten::copy_', None, [('Memcpy HtoD (Pinned -> Device)', 5.0)]),
        # 40 us of known kernels, 2 us of another one, and the range of a label.
        event('gemm', time=40.0, gpu=True),
        event('unknown', time=2.0, gpu=True),
        event('Optimizer.step#AdamW.step', time=100.0, gpu=True, label=True),
    ]
    times = profiling.add_up(events, on_gpu=True)
    assert times == {
        'teacher': 0.5,
        'attention, forward': 2.0,
        'attention, backward': 4.0,
        'bias gradient': 3.0,
        'linear layers': 16.0,
        'norms': 1.5,
        'optimizer': 8.0,
        'data transfer': 5.0,
        'other': 2.0,
    }


def test_profile_finds_the_groups_of_a_real_step(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, 'keep_freed_memory', lambda: False)
    out = tmp_path / 'profile.json'
    words = ['--arch', 'tiny', '--depth', '2', '--img-size', '64', '--batch', '2']
    words += ['--repeats', '1', '--teacher', 'test_vit']
    tool('analysis_tools/benchmark.py', 'profile', *words, '--out', out)
    result = json.loads(out.read_text())
    assert result['idle_seconds'] is None
    assert {name for name, time in result['groups'].items() if time > 0} == {
        *profiling.GROUPS
    } - {'data transfer'}
    assert '| attention, backward |' in capsys.readouterr().out


def case(title, tokens, **medians):
    ways = {
        way: dict(median=m, low=m, high=m, peak_bytes=3e9, difference=0.0)
        for way, m in medians.items()
    }
    return dict(title=title, tokens=tokens, batch=8, ways=ways, errors=dict(flex='no'))


def ways_result(*cases, compiled=False):
    result = dict(dtype='bfloat16', compiled=compiled, cases=list(cases))
    return dict(result, rules=attention.rules(result))


def test_rules_name_the_fastest_way_of_each_size():
    from mmmaskdistill.models.layers.attention_kernels import Rule

    small, own, large = attention.CASES
    result = ways_result(
        case(small.title, 197, recompute=2.0, gather=1.9, efficient=1.5),
        case(own.title, 197, recompute=1.0, efficient=2.0),
        case(large.title, 1025, recompute=2.0, efficient=1.98),
    )
    # 449 tokens are as far from 197 as from 1025, as a ratio.
    assert result['rules'] == (
        "    Rule('efficient', (torch.bfloat16,), False, (1, 449)),"
    )
    rules = ways_result(
        case(small.title, 197, recompute=1.0),
        case(large.title, 1025, recompute=2.0, flex=1.0),
        compiled=True,
    )['rules']
    (rule,) = eval(f'[{rules}]', dict(Rule=Rule, torch=torch))
    assert rule == Rule('flex', (torch.bfloat16,), True, (450, float('inf')))
    same = (case(c.title, c.tokens, recompute=1.0) for c in attention.DECISIVE)
    assert ways_result(*same)['rules'].startswith('    # none')
    rules = ways_result(
        case(small.title, 197, recompute=2.0, efficient=1.5),
        case(large.title, 1025, efficient=1.0),
    )['rules']
    assert rules.splitlines() == [
        "    Rule('efficient', (torch.bfloat16,), False, (1, 449)),",
        f'    # {large.title}: recompute was not measured',
    ]


@pytest.mark.parametrize('shared', [True, False])
def test_layers_of_the_attention_job_have_the_gradients_of_one(shared):
    few = attention.Case('few', 3, shared)
    ways = ('recompute', 'gather') if shared else ('recompute',)
    results = [
        attention.step(few, 2, way, torch.device('cpu'), torch.float32)()
        for way in ways
    ]
    for tokens, bias in results:
        assert tokens.shape == (2, 10, 3 * attention.WIDTH)
        assert bias.shape == ((attention.HEADS, 10, 10) if shared else (28, 12))
        torch.testing.assert_close(bias, results[0][1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tokens, results[0][0])


def test_cases_of_attention_are_kept_and_compiled_each_for_itself(
    tool, tmp_path, monkeypatch
):
    """As if the last case was cut; one way fails."""
    monkeypatch.setattr(measure, 'keep_freed_memory', lambda: False)
    few = [attention.Case(f'case {k}', k, k < 4) for k in (3, 4, 5)]
    monkeypatch.setattr(attention, 'CASES', few)
    real, resets = attention.step, []
    monkeypatch.setattr(torch._dynamo, 'reset', lambda: resets.append(1))

    def step(case, batch, way, *args):
        if case is few[2]:
            raise KeyboardInterrupt
        if way == 'gather':
            raise RuntimeError('no\ngather')
        return real(case, batch, way, *args)

    monkeypatch.setattr(attention, 'step', step)
    out = tmp_path / 'attention.json'
    words = ['--dtype', 'float32', '--batch', '1', '--repeats', '1', '--out', out]
    with pytest.raises(KeyboardInterrupt):
        tool('analysis_tools/benchmark.py', 'attention', *words)
    result = json.loads(out.read_text())
    assert [case['title'] for case in result['cases']] == ['case 3', 'case 4']
    assert result['cases'][0]['errors']['gather'] == 'RuntimeError: no'
    assert result['cases'][0]['ways'].keys() == {'recompute'}
    assert len(resets) == 3 and 'rules' not in result


def test_ways_with_other_gradients_are_left_out(monkeypatch):
    """A rule for such a way would spoil every training."""
    real = attention.step

    def step(case, batch, way, *args):
        call, factor = real(case, batch, way, *args), 1.2 if way == 'gather' else 1.0
        return lambda: [factor * x for x in call()]

    monkeypatch.setattr(attention, 'step', step)
    args = Namespace(compile=None, repeats=1)
    few = attention.Case('few', 3, True)
    for dtype in (torch.float32, torch.bfloat16):
        ways, errors = attention._measure(
            few, 1, ('recompute', 'gather'), args, torch.device('cpu'), dtype
        )
        assert set(ways) == {'recompute'}
        assert errors == dict(gather='its gradients differ by 2.0e-01')


def test_flex_attention_is_measured_after_all_others():
    """An illegal access to memory would end the process."""
    assert attention.rounds(torch.device('cpu')) == [attention_kernels.WAYS]
    first, second = attention.rounds(torch.device('cuda'))
    assert second == attention_kernels.WAYS and set(second) - set(first) == {'flex'}


def test_ways_of_attention_and_copies_have_tables(report):
    titles = [c.title for c in attention.CASES]
    result = ways_result(
        case(titles[0], 197, recompute=0.002, efficient=0.001),
        case(titles[2], 1025, recompute=0.002),
    )
    copies = dict(batch=4, ways=dict(waiting=dict(median=0.5)))
    chosen = [
        Step(4, 'Four', [Part('attention', 'ways', write(result))]),
        Step(5, 'Five', [Part('transfer', 'copies', write(copies))]),
    ]
    assert report().run(chosen)
    text = markdown.write_report(report(), chosen, tiny=False)
    title = 'pre-training, 224 px, batch 8, bfloat16'
    for line in (
        f'| {title} | recompute | 2 (2 to 2) | 3 GB | 0.0e+00 |',
        f'| {title} | efficient | 1 (1 to 1) | 3 GB | 0.0e+00 |',
        "    Rule('efficient', (torch.bfloat16,), False, (1, 449)),",
        '- flex, in 2 cases: no',
        '| waiting | 500 | 8 |',
    ):
        assert line in text.splitlines(), line
    assert 'Entries of `RULES`' in text
    # A job that was cut has no rules yet.
    del result['rules']
    cut = [Step(4, 'Four', [Part('attention', 'ways', write(result))])]
    assert report().run(cut)
    text = markdown.write_report(report(), cut, tiny=False)
    assert f'| {title} | recompute |' in text and 'Entries of `RULES`' not in text


def test_copies_are_timed_in_three_ways(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, 'keep_freed_memory', lambda: False)
    out = tmp_path / 'transfer.json'
    words = ['--arch', 'tiny', '--depth', '1', '--img-size', '32', '--batch', '2']
    words += ['--repeats', '1', '--teacher', 'test_vit']
    tool('analysis_tools/benchmark.py', 'transfer', *words, '--out', out)
    result = json.loads(out.read_text())
    assert len(result['ways']) == 3 and result['batch'] == 2
    assert all(times['median'] > 0 for times in result['ways'].values())


def test_errors_of_settings_take_one_line(tool):
    words = ['--arch', 'tiny', '--depth', '1', '--img-size', '32', '--batch', '2']
    with pytest.raises(SystemExit, match="^error: attention='fast': expected auto or"):
        tool('analysis_tools/benchmark.py', 'pretrain', *words, '--attention', 'fast')


def test_time_is_shared_by_weights_but_not_into_pieces_too_small():
    assert running.share(1200, [5, 8, 7]) == 300
    assert running.share(1200, [1, 99]) == 90
    assert running.share(40, [1, 99]) == 40
    assert running.share(1200, [1, 3], factor=2) == 600


def test_folder_of_a_part_is_that_of_one_commit_machine_and_command(report, tmp_path):
    """The quickstart continues from its folder, and would report old times as new."""
    add = "import json, os; os.makedirs('{dir}/kept', exist_ok=True); "
    add += "open('{dir}/kept/runs', 'a').write('x'); "
    fails = Part('a', 'a', python(add + "raise SystemExit('no')"), folder='kept')
    runs = tmp_path / 'kept/runs'
    for number in (1, 2):
        assert not report().run([Step(6, 'Six', [fails])])
        assert runs.read_text() == number * 'x'
    assert not report(commit='def').run([Step(6, 'Six', [fails])])
    assert runs.read_text() == 'x'
    other = replace(fails, command=python(add + "json.dump(1, open('{out}', 'w'))"))
    assert report(commit='def').run([Step(6, 'Six', [other])])
    assert runs.read_text() == 'x'
    # A report without a record of the step may be that of any commit.
    (tmp_path / 'steps/6.json').unlink()
    assert report(commit='def').run([Step(6, 'Six', [other])])
    assert runs.read_text() == 'x'


def test_commit_of_a_report_that_is_killed_is_known(report, monkeypatch):
    def killed(*args):
        assert report().load(2)['machine']['commit'] == MACHINE['commit']
        raise KeyboardInterrupt

    monkeypatch.setattr(running, 'call', killed)
    with pytest.raises(KeyboardInterrupt):
        report().run([Step(2, 'Two', [Part('a', 'first', write())])])


def test_stages_of_a_quickstart_that_is_cut_are_kept(report, tmp_path):
    (part,) = steps.quickstart(tiny=True)
    code = "import os; os.mkdir('{dir}/quickstart'); "
    for name, seconds in (('data', 12), ('pretrain', 34)):
        code += f"open('{{dir}}/quickstart/{name}.seconds', 'w').write('{seconds}'); "
    step = Step(6, 'Quickstart', [replace(part, command=python(code + 'exit(1)'))])
    assert not report().run([step])
    text = markdown.write_report(report(), [step], tiny=False)
    for line in ('| stage | seconds |', '| data | 12 |', '| pretrain | 34 |'):
        assert line in text.splitlines()
    assert '| all | 46 |' in text and 'mIoU' not in text
    empty = Step(6, 'Quickstart', [replace(part, command=python('exit(1)'))])
    assert not report().run([empty])
    assert '### Quickstart' not in markdown.write_report(report(), [empty], False)


def test_quickstart_takes_another_environment_and_folder(tmp_path):
    fake, out = tmp_path / 'python', tmp_path / 'out'
    fake.write_text('#!/usr/bin/env bash\necho "called with $1 $2"; exit 3\n')
    fake.chmod(0o755)
    (part,) = steps.quickstart(tiny=True)
    words = [w.replace('{dir}/quickstart', str(out)) for w in part.command]
    words = [w.replace('{python}', str(fake)) for w in words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert (out / 'data.log').read_text() == (
        f'called with tools/dataset_converters/texture_mosaics.py {out}/data\n'
    )
    words = ['bash', 'tools/quickstart.sh', '--out']
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, 'error: --out takes a folder\n')
