"""get_flops.py with students, heads and teachers of other methods."""

import os.path as osp
import re
import runpy

import pytest
import torch
from benchmarks.measure import count_flops
from helpers import tiny

CONFIGS = osp.join(osp.dirname(__file__), '../../configs')


@pytest.mark.parametrize(
    'config, teacher',
    [
        ('unified/mae.py', 0.0),  # Pixels take no operations.
        ('unified/maskfeat.py', 1e-3),  # HOG takes a few convolutions.
        ('unified/milan.py', 1.0),
        ('unified/beitv2.py', 1.0),  # The tokenizer's weights are not read.
        ('quickstart/pretrain.py', 1e-3),  # a network in a CachedTeacher
    ],
)
def test_parts_of_other_methods_are_counted(tool, capsys, config, teacher):
    tool('analysis_tools/get_flops.py', osp.join(CONFIGS, config))
    table = capsys.readouterr().out
    rows = dict(
        re.findall(r'\| +(student and head|teacher) \|.*\| +([\d.]+) \|', table)
    )
    assert float(rows['student and head']) > 0.1
    assert (float(rows['teacher']) > teacher) == (teacher > 0)


def test_mae_encoder_computes_only_visible_patches(tool, capsys):
    """Three quarters of the patches are hidden.

    The encoder has 12 blocks of width 768 on 50 tokens, the decoder 8 blocks of
    width 512 on 197 tokens.
    """
    tool(
        'analysis_tools/get_flops.py',
        osp.join(CONFIGS, 'unified/mae.py'),
        '--masked',
        '0.75',
    )
    gflop = float(
        re.search(r'student and head \|.*\| +([\d.]+) \|', capsys.readouterr().out)[1]
    )

    def blocks(count, tokens, width):
        return count * tokens * (24 * width**2 + 4 * tokens * width)

    expected = blocks(12, 50, 768) + blocks(8, 197, 512)
    expected += 2 * 196 * 768 * 768  # patch embedding
    # The linear layers into and out of the decoder.
    expected += 2 * 50 * 768 * 512 + 2 * 197 * 512 * 768
    assert gflop == pytest.approx(expected / 1e9, rel=0.01)


def test_teacher_whose_features_are_resized_sees_its_own_images():
    """Images of 64 pixels have 2 x 2 features, which become 4 x 4 without a product."""
    count = runpy.run_path(osp.join(CONFIGS, '../tools/analysis_tools/get_flops.py'))[
        'count'
    ]
    model = tiny.build(
        teacher=dict(tiny.TEACHER, model_name='test_resnet', resize='bilinear'),
        head=dict(tiny.LINEAR, out_channels=96),
    )
    _, flops = count(model, (64, 64), 0.4)['teacher']
    images = torch.randn(1, 3, 64, 64)
    assert flops == count_flops(lambda: model.teacher.model.forward_features(images))


VIT = 'finetune/vit-ti16_maskdistill-300e_8xb128-amp-coslr-100e_in1k.py'


def test_memory_is_predicted_for_each_batch_with_and_without_checkpointing(
    tool, capsys
):
    tool(
        'analysis_tools/get_flops.py',
        osp.join(CONFIGS, VIT),
        '--memory',
        '--batch',
        '2',
        '4',
        '--precision',
        'fp32',
        '--cfg-options',
        'compile=True',
    )
    output = capsys.readouterr().out
    assert 'GiB per GPU, predicted, not measured' in output
    assert 'compile=True, but the prediction is without it.' in output
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in output.split('\n')
        if line.startswith('|')
    ]
    cells = [dict(zip(rows[0], row)) for row in rows[1:]]
    assert [(c['batch'], c['precision'], c['with_cp']) for c in cells] == [
        (batch, 'fp32', with_cp) for batch in '24' for with_cp in ('no', 'yes')
    ]
    assert all(c['fits into'] == '24 GB' for c in cells)
    # 5.7 million parameters of 4 bytes, and AdamW's state of twice as many
    assert {(c['parameters'], c['optimizer'], c['teacher']) for c in cells} == {
        ('0.02', '0.04', '0.00')
    }
    kept = [float(c['activations']) for c in cells]
    assert kept[2] == pytest.approx(2 * kept[0], abs=0.011)
    assert all(plain > checkpointed for plain, checkpointed in zip(*[iter(kept)] * 2))


@pytest.mark.parametrize(
    'config, options, message',
    [
        (
            'unified/mae.py',
            ['--batch', '2'],
            '--batch and --precision are for --memory',
        ),
        (
            'unified/mae.py',
            ['--memory', '--batch', '0'],
            '--batch 0: expected at least',
        ),
        (
            'unified/mae.py',
            ['--memory', '--shape', '64', '64'],
            '--memory takes the size of the images from the config',
        ),
        (
            'unified/milan.py',
            ['--memory', '--batch', '2'],
            'the loss of MaskDistill depends on values',
        ),
        (
            VIT,
            ['--memory', '--cfg-options', 'train_dataloader.batch_size=0'],
            'train_dataloader.batch_size=0: expected a number of images',
        ),
        (
            VIT,
            ['--memory', '--cfg-options', 'model.backbone=None'],
            'the config has no model.backbone: expected a config that trains a model',
        ),
        (
            VIT,
            ['--memory', '--cfg-options', 'optim_wrapper=None'],
            'the config has no optim_wrapper: expected a config that trains a model',
        ),
        (
            VIT,
            ['--memory', '--cfg-options', 'model.backbone.attention=flex'],
            "model.backbone.attention='flex': the memory of this kernel of a GPU is",
        ),
        (
            VIT,
            ['--memory', '--cfg-options', 'optim_wrapper.optimizer.type=SGD'],
            "optim_wrapper.optimizer=.* cannot be built: .*argument 'betas'",
        ),
    ],
)
def test_memory_that_cannot_be_predicted_is_refused(tool, config, options, message):
    with pytest.raises(SystemExit, match=f'error: {message}'):
        tool('analysis_tools/get_flops.py', osp.join(CONFIGS, config), *options)
