"""Each job of tools/analysis_tools/benchmark.py, at small sizes."""

import argparse
import json
import sys
import weakref
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from benchmarks import measure, sides
from benchmarks.sides import Side
from torch import nn

TOOL = 'analysis_tools/benchmark.py'
TINY = ('--arch', 'tiny', '--batch', '2', '--repeats', '1')
CPU = torch.device('cpu')
BOTH = ['ours', 'timm']
FIGURES = {
    'seconds',
    'median',
    'low',
    'high',
    'images_per_second',
    'flops',
    'share_of_product_rate',
    'share_of_peak_rate',
    'peak_bytes',
    'state_bytes',
}


@pytest.fixture
def figures(tool, tmp_path, monkeypatch):
    """Run a job and read its JSON file."""
    # The setting cannot be undone, and this process runs the other tests too.
    monkeypatch.setattr(measure, 'keep_freed_memory', lambda: False)

    def figures(job, *args):
        out = tmp_path / 'benchmark.json'
        tool(TOOL, job, *args, '--out', out)
        result = json.loads(out.read_text())
        assert result['job'] == job
        return result

    return figures


def test_finetune_does_not_compute_dropped_blocks(figures):
    result = figures(
        'finetune',
        *TINY,
        '--depth',
        '2',
        '--img-size',
        '64',
        '--drop-path',
        '0.9999999',
    )
    sides = result['sides']
    assert set(sides) == {'ours', 'mmpretrain', 'timm'}
    # At this rate, drop path practically always drops the second of the two blocks,
    # and this project's ViT does not compute it.
    tokens, width = 17, 192
    block = 2 * tokens * (12 * width**2 + 2 * tokens * width)
    for peer in ('mmpretrain', 'timm'):
        assert result['differences'][peer] < 1e-4
        assert set(sides[peer]) == FIGURES | {'kept_bytes_per_image'}
        # This project's ViT computes the attention weights of the first block
        # again in the backward pass.
        assert sides[peer]['flops'] - sides['ours']['flops'] == 2 * (
            3 * block - 2 * tokens**2 * width
        )
        assert (
            sides['ours']['kept_bytes_per_image']
            < 0.6 * sides[peer]['kept_bytes_per_image']
        )


def test_segment_needs_less_compute_and_memory_than_mmseg(figures):
    result = figures('segment', *TINY, '--depth', '6', '--img-size', '64')
    ours, mmseg = (result['sides'][name] for name in ('ours', 'mmseg'))
    assert result['differences']['mmseg'] < 1e-4
    assert ours['kept_bytes_per_image'] < 0.7 * mmseg['kept_bytes_per_image']
    assert ours['flops'] < 0.8 * mmseg['flops']


def test_eval_needs_less_compute_and_memory_than_mmseg(figures):
    result = figures(
        'eval', '--arch', 'tiny', '--depth', '6', '--img-size', '64', '--repeats', '1'
    )
    ours, mmseg = (result['sides'][name] for name in ('ours', 'mmseg'))
    # Evaluation keeps nothing for a backward pass.
    assert set(ours) == FIGURES
    assert result['differences']['mmseg'] < 1e-4
    assert ours['peak_bytes'] < mmseg['peak_bytes']
    assert ours['flops'] < 0.8 * mmseg['flops']


def test_sweeps_are_measured_and_drawn(figures, tmp_path):
    result = figures(
        'finetune',
        *TINY,
        '--against',
        'timm',
        '--sweep',
        'size',
        'batch',
        'depth',
        '--sizes',
        '32',
        '64',
        '--batches',
        '1',
        '3',
        '--depths',
        '1',
        '2',
        '--depth',
        '1',
        '--img-size',
        '32',
        '--plot',
        tmp_path / 'sweep.png',
    )
    sizes, batches, depths = (
        result['sweeps'][name] for name in ('size', 'batch', 'depth')
    )
    assert [(p['size'], p['tokens']) for p in sizes] == [(32, 10), (64, 34)]
    assert [(p['batch'], p['tokens']) for p in batches] == [(1, 5), (3, 15)]
    assert [p['depth'] for p in depths] == [1, 2]
    for small, great in (sizes, batches, depths):
        for side in ('ours', 'timm'):
            assert small['sides'][side]['flops'] < great['sides'][side]['flops']
    for small, great in (sizes, depths):
        for side in ('ours', 'timm'):
            assert (
                small['sides'][side]['kept_bytes_per_image']
                < great['sides'][side]['kept_bytes_per_image']
            )
    assert (tmp_path / 'sweep.png').stat().st_size > 10000


def test_side_that_runs_out_of_memory_has_no_point(figures, tmp_path, monkeypatch):
    limited, calls = measure.limited_memory, []

    @contextmanager
    def limit():
        calls.append(1)
        with limited():
            # The fourth call is timm's at the second size.
            if len(calls) == 4:
                torch.empty(2**45)
            yield

    monkeypatch.setattr(measure, 'limited_memory', limit)
    result = figures(
        'finetune',
        *TINY,
        '--against',
        'timm',
        '--sweep',
        'size',
        '--sizes',
        '32',
        '64',
        '--depth',
        '1',
        '--plot',
        tmp_path / 'sweep.png',
    )
    small, great = result['sweeps']['size']
    assert set(small['sides']) == {'ours', 'timm'}
    assert set(great['sides']) == {'ours'}
    assert small['left_out'] == {} and great['left_out'] == dict(timm='out of memory')
    assert (tmp_path / 'sweep.png').is_file()


def test_objectives_differ_by_what_they_compute_of_visible_patches(figures):
    teacher = 'vit_tiny_patch16_224'
    words = ('--depth', '2', '--img-size', '64', '--teacher', teacher)
    sides = figures('objectives', *TINY, *words)['sides']
    hidden, masked, unmasked = (
        sides[name]
        for name in ('hidden patches', 'all patches', 'all patches, no mask')
    )
    # The paper's objective spares the last MLP of the student and the head (three
    # products each, with the backward pass), and the last MLP of the teacher.
    batch, visible, width = 2, 16 - round(16 * 75 / 196), 192
    spared = 2 * batch * visible * (3 * (8 + 1) * width**2 + 8 * width**2)
    assert masked['flops'] - hidden['flops'] >= spared
    assert unmasked['flops'] == masked['flops']
    assert hidden['kept_bytes_per_image'] < masked['kept_bytes_per_image']


@pytest.mark.parametrize('job', ['objectives', 'profile', 'transfer'])
@pytest.mark.parametrize('option', ['--against=timm', '--sweep=size', '--plot=a.png'])
def test_jobs_of_this_project_alone_compare_no_libraries(job, option, tool, capsys):
    with pytest.raises(SystemExit):
        tool(TOOL, job, option)
    assert f'unrecognized arguments: {option}' in capsys.readouterr().err


def test_sweep_ends_where_all_sides_fit(figures, monkeypatch):
    limited, calls = measure.limited_memory, []

    @contextmanager
    def limit():
        calls.append(1)
        with limited():
            # The second call is timm's at the first batch size.
            if len(calls) == 2:
                torch.empty(2**45)
            yield

    monkeypatch.setattr(measure, 'limited_memory', limit)
    words = (
        '--against',
        'timm',
        '--depth',
        '1',
        '--img-size',
        '32',
        '--sweep',
        'batch',
    )
    words += ('--batches', '4', '2', '1', '--until-all-fit')
    points = figures('finetune', *TINY, *words)['sweeps']['batch']
    assert [(p['batch'], sorted(p['sides'])) for p in points] == [
        (4, ['ours']),
        (2, ['ours', 'timm']),
    ]


@pytest.mark.parametrize('device, rounds', [('cpu', 1), ('cuda', 2)])
def test_side_out_of_memory_leaves_what_it_shares_as_it_is(device, rounds, monkeypatch):
    """In the second round all sides have the state of their optimizers."""
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: None)
    # Moving it anywhere would be an error.
    teacher, calls = nn.Linear(2, 2, device='meta'), []

    def side(name, error=None):
        def output():
            calls.append(name)
            if error:
                raise error
            return teacher.weight.sum()

        return Side(output, nn.ModuleList([nn.Linear(1, 1), teacher]))

    found = dict(
        ours=side('ours'),
        mmpretrain=side('mmpretrain', torch.OutOfMemoryError('CUDA out of memory.')),
        timm=side('timm'),
        mmseg=side('mmseg', AssertionError('size (4)\nexpected')),
    )
    left_out = sides.leave_out(found, torch.device(device))
    assert left_out == dict(
        mmpretrain='out of memory',
        mmseg='does not run: AssertionError: size (4) expected',
    )
    assert list(found) == ['ours', 'timm']
    assert calls == ['ours', 'mmpretrain', 'timm', 'mmseg'] + ['ours', 'timm'] * (
        rounds - 1
    )
    with pytest.raises(ValueError, match='wrong'):
        sides.leave_out(dict(ours=side('ours', ValueError('wrong'))), CPU)
    with pytest.raises(ValueError, match='wrong'):
        sides.leave_out(dict(all=side('all', ValueError('wrong'))), CPU, {'all'})


def test_side_that_is_left_out_is_freed(monkeypatch):
    """The caller must not keep it alive either."""
    made = {}

    def build(args, device):
        def side(name):
            model = made[name] = nn.Linear(2, 1)

            def output(model=model):
                if name == 'timm' and torch.is_grad_enabled():
                    raise torch.OutOfMemoryError('CUDA out of memory.')
                return model(torch.ones(2)).sum()

            return sides.training(output, model, fused=False)

        found = dict(ours=side('ours'), timm=side('timm'))
        found['timm'].model.load_state_dict(found['ours'].model.state_dict())
        made.update({name: weakref.ref(model) for name, model in made.items()})
        return found

    real = sides._figures

    def figures(*args):
        assert made['ours']() is not None and made['timm']() is None
        return real(*args)

    monkeypatch.setattr(sides, '_figures', figures)
    parser = argparse.ArgumentParser()
    sides.add_arguments(parser, ['timm'], 32, 1)
    args = parser.parse_args(['--repeats', '1'])
    *_, found = sides._measure(args, build, CPU, 1.0)
    assert set(found['sides']) == {'ours'}
    assert found['left_out'] == dict(timm='out of memory')


def test_sweep_goes_on_if_the_check_of_the_sides_runs_out_of_memory(
    figures, monkeypatch
):
    real = sides.check_equal

    def check(found):
        checked.append(found)
        if len(checked) == 1:
            raise torch.OutOfMemoryError('CUDA out of memory.')
        return real(found)

    checked = []
    monkeypatch.setattr(sides, 'check_equal', check)
    words = ('--against', 'timm', '--depth', '1', '--img-size', '32')
    words += ('--sweep', 'batch', '--batches', '4', '2', '--until-all-fit')
    first, second = figures('finetune', *TINY, *words)['sweeps']['batch']
    assert first['sides'] == {} and second['left_out'] == {}
    assert first['left_out'] == dict.fromkeys(['ours', 'timm'], 'out of memory')
    assert set(second['sides']) == {'ours', 'timm'}


@pytest.mark.parametrize('compiled', [False, True])
def test_measurements_of_a_job_that_is_cut_are_kept(
    compiled, figures, tmp_path, monkeypatch
):
    """Of a compiled step, this project's is kept before the others are compiled."""
    real, timed = measure.interleave, []

    def interleave(calls, *args):
        if 'ours' in calls:
            timed.append(sorted(calls))
            if len(timed) == 2:
                raise KeyboardInterrupt
        return real(calls, *args)

    monkeypatch.setattr(measure, 'interleave', interleave)
    words = ['--against', 'timm', '--depth', '1', '--img-size', '32']
    words += ['--sweep', 'batch', '--batches', '2', '1']
    words += ['--compile', 'aot_eager'] if compiled else []
    with pytest.raises(KeyboardInterrupt):
        figures('finetune', *TINY, *words)
    (point,) = json.loads((tmp_path / 'benchmark.json').read_text())['sweeps']['batch']
    assert point['batch'] == 2 and point['left_out'] == {}
    assert sorted(point['sides']) == timed[0]
    assert timed == ([['ours'], BOTH] if compiled else [BOTH, BOTH])


def test_times_are_kept_if_operations_cannot_be_counted(figures, monkeypatch, capsys):
    """As a compiled step may need more memory when it is not compiled."""
    real = measure.count_flops

    def count_flops(call):
        real(call)
        raise torch.OutOfMemoryError('CUDA out of\nmemory.')

    monkeypatch.setattr(measure, 'count_flops', count_flops)
    words = ('--against', 'timm', '--depth', '1', '--img-size', '32')
    found = figures('finetune', *TINY, *words)['sides']
    for side in found.values():
        assert side['median'] > 0 and side['kept_bytes_per_image'] > 0
        assert side['flops'] is side['share_of_product_rate'] is None
    assert 'ours, operations: OutOfMemoryError: CUDA out of memory.' in (
        capsys.readouterr().out
    )


def test_operations_are_those_of_a_step_without_flex_attention(monkeypatch):
    """FlexAttention cannot be trained where nothing is compiled."""
    from mmmaskdistill.models.layers import attention_kernels

    monkeypatch.setitem(attention_kernels._KERNELS, 'flex', None)
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    qkv, bias = torch.randn(2, 3, 12), torch.randn(1, 3, 3, requires_grad=True)
    output = partial(attention_kernels.trained_attention, [qkv], 1, bias, way='flex')
    flops = sides._flops(Side(output, nn.Identity()))
    assert flops == 2 * 2 * (2 * 3 * 3 * 4)


def test_compiled_sides_are_left_out_only_if_they_do_not_compile(figures, monkeypatch):
    """The operations are those of the same step without compilation."""

    @torch._dynamo.register_backend(name='breaks')
    def breaks(graph, inputs):
        raise NotImplementedError('not today')

    words = (
        '--depth',
        '1',
        '--img-size',
        '32',
        '--against',
        'timm',
        '--adamw',
        'fused',
    )
    plain = figures('finetune', *TINY, *words)
    compiled = figures('finetune', *TINY, *words, '--compile', 'aot_eager')
    assert plain['left_out'] == compiled['left_out'] == {}
    for name in ('ours', 'timm'):
        flops = [result['sides'][name]['flops'] for result in (plain, compiled)]
        assert flops[0] == flops[1]
    try:
        broken = figures('finetune', *TINY, *words, '--compile', 'breaks')
    finally:
        torch._dynamo.reset()
    assert broken['sides'] == {}
    assert set(broken['left_out']) == {'ours', 'timm'}
    reason = broken['left_out']['timm']
    assert reason.startswith('does not compile: BackendCompilerFailed') and (
        'not today' in reason
    )


def test_amp_changes_both_sides(figures):
    result = figures(
        'finetune',
        *TINY,
        '--against',
        'timm',
        '--depth',
        '1',
        '--img-size',
        '32',
        '--amp',
    )
    plain = figures(
        'finetune', *TINY, '--against', 'timm', '--depth', '1', '--img-size', '32'
    )
    for side in ('ours', 'timm'):
        assert (
            result['sides'][side]['kept_bytes_per_image']
            != plain['sides'][side]['kept_bytes_per_image']
        )


def test_resume_is_measured_at_all_iterations(figures):
    result = figures(
        'resume',
        '--img-size',
        '64',
        '--images',
        '8',
        '--workers',
        '0',
        '--repeats',
        '1',
        '--few',
        '2',
        '5',
        '--at',
        '100000',
    )
    assert set(result['seconds']['ours']) == {'2', '5', '100000'}
    assert set(result['seconds']['mmengine']) == {'2', '5'}
    assert set(result['extrapolated']) == {'at', 'mmengine', 'seconds_per_iteration'}


def test_start_is_measured_for_both_sides(figures):
    result = figures(
        'start', '--img-size', '64', '--images', '8', '--workers', '0', '--repeats', '1'
    )
    assert {n: len(s['seconds']) for n, s in result['sides'].items()} == dict(
        ours=1, mmseg=1
    )


@pytest.mark.parametrize(
    'args, message',
    [
        (['segment', '--depth', '3'], '--depth 3'),
        (['finetune', '--arch', 'gigantic'], 'gigantic'),
        (['finetune', '--plot', 'sweep.png'], '--plot'),
        (['resume', '--few', '3'], '--few'),
    ],
)
def test_invalid_arguments_are_named_in_the_error(tool, args, message):
    with pytest.raises(SystemExit, match=message):
        tool(TOOL, *args)


def test_check_counts_files_of_all_kinds(figures, capsys):
    arguments = ('--names', '40', '--files', '35', '--img-size', '32', '--repeats', '1')
    result = figures('check', *arguments)
    checks = result['checks']
    assert {name: part['files'] for name, part in checks.items()} == {
        'quick': 40,
        'labels': 35,
        'complete': 35,
        'complete again': 35,
    }
    assert all(part['cpu_seconds'] > 0 for part in checks.values())
    assert 'files / CPU second' in capsys.readouterr().out


def test_predict_needs_no_more_memory_for_more_images(figures):
    arguments = ('--images', '2', '--img-size', '64', '--repeats', '1')
    sides = figures('predict', *arguments)['sides']
    assert set(sides) == {'ours', 'mmseg'}
    few, many = sides['ours']['bytes']
    assert many == few
    few, many = sides['mmseg']['bytes']
    # The logits of six more images of 64 x 85 pixels and 150 classes.
    assert many - few >= 6 * 4 * 150 * 64 * 85
    assert all(side['seconds']['median'] > 0 for side in sides.values())


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc/self/status')
def test_tiles_of_a_large_picture_need_little_memory(figures):
    pytest.importorskip('rasterio')
    size, classes = ('4000', '4000'), 60
    result = figures('tile', '--size', *size, '--classes', str(classes))
    assert result['tiles'] == 12**2 and result['seconds'] > 0
    logits = 4 * classes * 4000**2
    assert result['peak_bytes'] - result['start_bytes'] < logits / 3
