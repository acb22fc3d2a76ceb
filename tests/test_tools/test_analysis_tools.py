"""show_pretraining.py, benchmark.py and get_flops.py on the command line."""

import json
import os.path as osp
import runpy

import pytest
import timm
from mmengine.config import Config

from mmmaskdistill.registry import MODELS

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))

TOOL = 'analysis_tools/show_pretraining.py'


def test_invalid_arguments_end_with_a_one_line_error(tool, segmentor, workspace):
    image = 'images/00.jpg'
    for message, args in [
        ("'no.py' not found", ['no.py', segmentor[0], image]),
        ("'no.pth' not found", ['pretrain.py', 'no.pth', image]),
        ("'no.jpg' not found", ['pretrain.py', segmentor[0], image, 'no.jpg']),
        ('is a EncoderDecoder: ', ['segment.py', segmentor[0], image]),
        ('another architecture', ['pretrain.py', segmentor[0], image]),
    ]:
        with pytest.raises(SystemExit) as error:
            tool(TOOL, *args)
        text = str(error.value)
        assert message in text and text.startswith('error: ')
        assert '\n' not in text


def test_benchmark_counts_the_flops_of_skipped_tokens(tool, tmp_path):
    """The difference in FLOPs follows from what is skipped and what is repeated.

    In the last block of the student and of the teacher, visible tokens serve only
    as keys and values. The student's blocks compute their attention weights again
    in the backward pass.
    """
    out = tmp_path / 'benchmark.json'
    tool(
        'analysis_tools/benchmark.py',
        'pretrain',
        '--arch',
        'tiny',
        '--teacher',
        'test_vit',
        '--img-size',
        '64',
        '--batch',
        '2',
        '--repeats',
        '1',
        '--out',
        str(out),
    )
    sides = json.loads(out.read_text())['sides']
    images, tokens, hidden, width, blocks = 2, 17, 6, 192, 12
    visible = tokens - hidden
    weights = 2 * tokens * width  # FLOPs of the attention weights of one query
    skipped = 3 * visible * (10 * 2 * width**2 + 2 * weights)
    repeated = ((blocks - 1) * tokens + hidden) * weights
    teacher = timm.create_model('test_vit').blocks[-1].mlp.fc1
    mlp, width = teacher.weight.shape
    skipped += visible * 4 * width * (width + mlp + tokens)
    for peer in ('timm', 'mmpretrain'):
        assert sides[peer]['flops'] - sides['ours']['flops'] == images * (
            skipped - repeated
        )
        assert (
            sides['ours']['kept_bytes_per_image']
            < 0.6 * sides[peer]['kept_bytes_per_image']
        )


def test_flops_equal_the_formula(tool, workspace, capsys):
    """The student has two blocks of width 48 and 1 + 16 tokens, 6 of them hidden."""
    tool('analysis_tools/get_flops.py', 'pretrain.py')
    assert 'student and head' in capsys.readouterr().out

    script = runpy.run_path(osp.join(ROOT, 'tools/analysis_tools/get_flops.py'))
    model = MODELS.build(Config.fromfile('pretrain.py').model)
    counts = script['count'](model.eval(), (64, 64), 75 / 196)
    n, hidden, width, mlp = 17, 6, 48, 96

    def block(queries):
        return (
            2
            * width
            * (
                queries * 2 * width
                + n * 2 * width
                + 2 * queries * n
                + 2 * queries * mlp
            )
        )

    assert counts['student and head'] == (
        sum(p.numel() for p in model.parameters()),
        2 * 16 * 3 * 16**2 * width + block(n) + block(hidden) + 2 * hidden * width * 64,
    )
