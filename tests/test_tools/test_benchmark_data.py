"""The job ``data`` of tools/analysis_tools/benchmark.py."""

import json
import math
import re
import sys

import pytest
from benchmarks import data

pytest.importorskip('skimage')


@pytest.fixture
def benchmark(tool, tmp_path):

    def run(*arguments):
        out = tmp_path / 'benchmark.json'
        tool(
            'analysis_tools/benchmark.py',
            'data',
            '--repeats',
            '2',
            '--out',
            str(out),
            *arguments,
        )
        return json.loads(out.read_text())

    return run


def test_pipelines_and_storages_are_timed(benchmark, capsys):
    pytest.importorskip('lmdb')
    result = benchmark('--images', 'images', '--num-images', '3')
    assert result['images'] <= 3
    assert list(result['storage']) == ['folder', 'shards', 'lmdb']
    assert len(result['pipelines']) == 5
    for figures in (result['pipelines'], result['storage']):
        assert all(
            times['low'] <= times['median'] <= times['high']
            for times in figures.values()
        )
    split, out = result['split'], capsys.readouterr().out
    assert split['batch'] == result['images'] and split['levels'] == 0
    saved = 1 - split['cut']['median'] / split['whole']['median']
    assert f' {saved:.0%} | ' in out
    assert f' {1 / split["device"]["median"]:.0f} |' in out
    assert 'BEiT v2: two pictures' in out


def test_storage_that_needs_a_missing_package_is_left_out(
    benchmark, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    result = benchmark('--images', 'images', '--num-images', '1', '--against')
    assert list(result['storage']) == ['folder', 'shards']
    assert 'lmdb is left out' in capsys.readouterr().out


def test_tables_can_be_chosen(benchmark):
    result = benchmark('--images', 'images', '--num-images', '1', '--tables', 'split')
    assert 'split' in result and not {'pipelines', 'storage'} & set(result)


def test_device_that_is_missing_is_an_error_of_one_line(benchmark, monkeypatch, capsys):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(SystemExit) as error:
        benchmark('--device', 'cuda')
    message = 'error: --device cuda, but torch finds no GPU: use --device cpu'
    assert f'{error.value}{capsys.readouterr().err}'.strip().startswith(message)


def test_pipelines_to_compare_with_can_be_chosen(tmp_path):
    sides = data.pipelines(str(tmp_path), ['torchvision'])
    assert list(sides) == ['ours', 'torchvision', 'torchvision, BEiT v2: two pictures']


def test_photographs_have_about_67_kilobytes():
    for content in data.photographs():
        assert abs(len(content) - 67_000) < 10_000


def test_loader_and_step_of_a_config_are_timed(benchmark, capsys):
    result = benchmark('--config', 'pretrain.py')
    load = 4 / result['loader_seconds']['median']  # The batch size is 4.
    train = 4 / result['step_seconds']['median']
    assert result['needed'] == math.ceil(1.1 * train / load)
    assert result['advice'] in capsys.readouterr().out


def test_tokens_of_a_teacher_with_published_weights_are_random(
    benchmark, workspace, monkeypatch
):
    """As in configs/unified/beit.py; its tokenizer would be downloaded."""
    monkeypatch.setattr(
        'mmmaskdistill.models.teachers.tokenizer_teachers.read_weights', pytest.fail
    )
    (workspace / 'beit.py').write_text("""
_base_ = 'pretrain.py'
model = dict(
    teacher=dict(
        _delete_=True, type='mmmaskdistill.DALLETeacher', img_size=32, width=8),
    normalizer=dict(_delete_=True, type='mmmaskdistill.NoNormalizer'),
    head=dict(
        _delete_=True, type='mmmaskdistill.CodebookHead', in_channels=48,
        vocab_size=8192),
    loss=dict(_delete_=True, type='mmmaskdistill.CrossEntropyLoss'))
data_preprocessor = dict(second_mean=[0] * 3, second_std=[1] * 3)
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='mmmaskdistill.RandomJitteredCrop', scale=64, second_scale=32),
    dict(type='SimMIMMaskGenerator', input_size=64,
         mask_patch_size=16, model_patch_size=16, mask_ratio=0.4),
    dict(type='PackInputs')]))
""")
    result = benchmark('--config', 'beit.py')
    assert result['step_seconds']['median'] > 0


@pytest.mark.parametrize(
    'train, workers, processes, cores, limits, advised, text',
    [
        (900, 8, 1, 16, 'model', 1, 'the model limits training: .*num_workers=1$'),
        (9000, 8, 1, 16, 'loading', 10, '=8, .* loading limits training: .*=10$'),
        (9000, 9, 1, 16, 'model', 10, 'the model limits training: .*=10$'),
        (
            9000,
            8,
            2,
            16,
            'loading',
            7,
            '10 workers per process .* room for only 7 each; 22 cores would be '
            'needed. .*num_workers=7: .* 78% of',
        ),
        (500, 0, 1, 1, 'model', 1, 'the model limits training: .*num_workers=1$'),
    ],
)
def test_advised_number_of_workers(
    train, workers, processes, cores, limits, advised, text
):
    """A worker loads 1000 images per second; 10 % more are advised than needed."""
    result = data.advise(1000, train, workers, processes, cores)
    assert (result['limits'], result['workers']) == (limits, advised)
    assert re.search(text, result['advice'])


def test_invalid_arguments_end_with_a_one_line_error(benchmark, tmp_path):
    for message, arguments in [
        ('no .jpg, .jpeg, .png in --images', ['--images', str(tmp_path)]),
        ("config not found: 'no.py'", ['--config', 'no.py']),
        (
            'data not found',
            [
                '--config',
                'pretrain.py',
                '--cfg-options',
                'train_dataloader.dataset.data_root=no',
            ],
        ),
        (
            'samples are less than two batches',
            [
                '--config',
                'pretrain.py',
                '--cfg-options',
                'train_dataloader.batch_size=1000',
            ],
        ),
    ]:
        with pytest.raises(SystemExit, match=message) as error:
            benchmark(*arguments)
        assert '\n' not in str(error.value)
