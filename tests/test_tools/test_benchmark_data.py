"""The job ``data`` of tools/analysis_tools/benchmark.py."""

import json
import math
import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip('skimage')
JOB = runpy.run_path(
    str(Path(__file__).parents[2] / 'tools/analysis_tools/benchmarks/data.py')
)


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
    assert 'BEiT v2: two pictures' in capsys.readouterr().out


def test_pipelines_to_compare_with_can_be_chosen(tmp_path):
    sides = JOB['pipelines'](str(tmp_path), ['torchvision'])
    assert list(sides) == ['ours', 'torchvision', 'torchvision, BEiT v2: two pictures']


def test_photographs_have_about_67_kilobytes():
    for content in JOB['photographs']():
        assert abs(len(content) - 67_000) < 10_000


def test_loader_and_step_of_a_config_are_timed(benchmark, capsys):
    result = benchmark('--config', 'pretrain.py')
    load = 4 / result['loader_seconds']['median']  # The batch size is 4.
    train = 4 / result['step_seconds']['median']
    assert result['needed'] == math.ceil(1.1 * train / load)
    assert result['advice'] in capsys.readouterr().out


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
    result = JOB['advise'](1000, train, workers, processes, cores)
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
