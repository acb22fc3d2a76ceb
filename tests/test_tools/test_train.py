"""tools/train.py as a user runs it.

Runs are killed and resumed, run in parallel, or started with wrong arguments.
"""

import os
import signal

import pytest
import torch

import mmmaskdistill  # noqa: F401  (makes mmengine's checkpoints loadable)


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(a, b, atol=0.0):
    """Compare the tensors of two checkpoints, including those of the EMA."""
    for part in {'state_dict', 'ema_state_dict'} & a.keys():
        assert a[part].keys() == b[part].keys()
        for key, tensor in a[part].items():
            difference = (tensor.double() - b[part][key].double()).abs().max()
            assert difference <= atol, (part, key, float(difference))


def test_resumed_pretraining_equals_an_uninterrupted_one(workspace, start, run):
    whole = start(
        'train.py',
        'pretrain.py',
        '--work-dir',
        'pretrain-whole',
        '--cfg-options',
        'randomness.seed=3',
    )
    args = ['train.py', 'pretrain.py', '--work-dir', 'pretrain', '--resume']

    # The first process dies while it writes the checkpoint of epoch 2, iteration 8.
    # Only this process is given the seed: the others read it from the checkpoint.
    first = run(
        *args, '--cfg-options', 'randomness.seed=3', fails=True, DIE_WRITING='8'
    )
    assert first.returncode == -signal.SIGXFSZ
    assert 'no checkpoint in pretrain yet: starting anew' in first.out
    assert not (workspace / 'pretrain/epoch_2.pth').exists()
    load(workspace / 'pretrain/epoch_1.pth')

    # The second process dies in epoch 3, iteration 10.
    second = run(*args, fails=True, DIE_AT='10')
    assert second.returncode == -signal.SIGKILL
    assert 'epoch_1.pth' in second.out.split(' - mmengine - ')[0]

    run(*args, '--cfg-options', 'train_dataloader.num_workers=1')
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    a = load(workspace / 'pretrain-whole/epoch_4.pth')
    b = load(workspace / 'pretrain/epoch_4.pth')
    assert b['meta']['seed'] == 3 and b['meta']['iter'] == 16
    assert not any('teacher' in key for key in b['state_dict'])
    assert_same(a, b)
    assert a['param_schedulers'] == b['param_schedulers']


def test_resumed_segmentation_equals_an_uninterrupted_one(segmentor):
    whole, resumed = map(load, segmentor)
    assert_same(whole, resumed)
    assert (
        whole['message_hub']['runtime_info']['iter']
        == resumed['message_hub']['runtime_info']['iter']
    )


def test_two_processes_equal_one_with_twice_the_batch_size(workspace, start, run):
    options = [
        '--cfg-options',
        'randomness.seed=3',
        'optim_wrapper.optimizer._delete_=True',
        'optim_wrapper.optimizer.type=SGD',
        'optim_wrapper.optimizer.lr=0.1',
        'model.backbone.drop_path_rate=0',
        'train_cfg.max_epochs=2',
    ]
    one = start(
        'train.py',
        'pretrain.py',
        '--work-dir',
        'one',
        *options,
        'train_dataloader.batch_size=8',
    )
    two = run(
        'dist_train.sh',
        'pretrain.py',
        2,
        '--work-dir',
        'two',
        *options,
        'train_dataloader.batch_size=4',
    )
    _, err = one.communicate(timeout=300)
    assert one.returncode == 0, err
    one, two = (load(workspace / f'{name}/epoch_2.pth') for name in ('one', 'two'))
    assert one['meta']['iter'] == two['meta']['iter'] == 4
    assert_same(one, two, atol=1e-6)


@pytest.mark.parametrize(
    'args, message',
    [
        (['nowhere.py'], "config not found: 'nowhere.py'"),
        (['pretrain.py', '--resume', 'no.pth'], "checkpoint not found: 'no.pth'"),
    ],
)
def test_missing_files_end_with_a_one_line_error(run, args, message):
    process = run('train.py', *args, fails=True)
    assert process.err.count('\n') == 1 and message in process.err
    assert process.out == ''


def test_invalid_arguments_end_with_a_one_line_error(tool, segmentor, workspace):
    data = 'train_dataloader.dataset.data_root'
    with pytest.raises(SystemExit, match='error: data not found') as e:
        tool('train.py', 'segment.py', '--cfg-options', f'{data}=nowhere')
    assert '\n' not in str(e.value) and f'{data}=PATH' in str(e.value)
    with pytest.raises(SystemExit, match='checkpoint not found: .a.pth'):
        tool('train.py', 'segment.py', '--cfg-options', 'load_from=a.pth')
    with pytest.raises(SystemExit, match='another architecture') as e:
        tool('train.py', 'pretrain.py', '--work-dir', 'c', '--resume', segmentor[0])
    assert '\n' not in str(e.value) and 'tensors match' in str(e.value)
    with pytest.raises(SystemExit, match='auto_scale_lr.base_batch_size=N'):
        tool('train.py', 'pretrain.py', '--auto-scale-lr')
    for message, config, option in [
        (
            'a grid of 2 x 2 patches, the student has one of 4 x 4',
            'pretrain.py',
            'model.teacher.img_size=32',
        ),
        (
            'draws masks of 2 x 2 patches, the student MaskDistillViT has 4 x 4',
            'pretrain.py',
            'train_dataloader.dataset.pipeline.3.input_size=32',
        ),
        ('head.out_channels=64', 'pretrain.py', 'model.head.out_channels=63'),
        (
            "'test_vitt' is not a model of timm",
            'pretrain.py',
            'model.teacher.model_name=test_vitt',
        ),
        (
            'make the data set with',
            'segment.py',
            'train_dataloader.dataset.type=mmmaskdistill.TextureMosaicDataset',
        ),
    ]:
        with pytest.raises(SystemExit) as e:
            tool('train.py', config, '--work-dir', 'd', '--cfg-options', option)
        text = str(e.value)
        assert message in text and text.startswith('error: ')
        assert '\n' not in text
    (workspace / 'child.py').write_text("_base_ = 'missing.py'")
    with pytest.raises(SystemExit, match='error: config .child.py'):
        tool('train.py', 'child.py')


@pytest.mark.parametrize(
    'env, prints',
    [
        ({}, True),
        # torchrun sets RANK, here on the second node of a Slurm job.
        (dict(RANK='0', SLURM_PROCID='1'), True),
        (dict(RANK='1', SLURM_PROCID='0'), False),
        (dict(SLURM_PROCID='0'), True),
        (dict(SLURM_PROCID='3'), False),
        (dict(OMPI_COMM_WORLD_RANK='2', SLURM_PROCID='0'), False),
    ],
)
def test_only_rank_0_prints_the_error(tool, monkeypatch, env, prints):
    for name in ('RANK', 'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as e:
        tool('train.py', 'nowhere.py')
    assert (
        str(e.value).startswith('error: config not found')
        if prints
        else (e.value.code == 1)
    )


def test_scripts_print_their_usage(run):
    for script in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'):
        process = run(script, 'pretrain.py', fails=True)
        assert process.returncode == 2
        assert f'tools/{script} ' in process.err
    process = run('dist_train.sh', 'pretrain.py', 'two', fails=True)
    assert "not 'two'" in process.err


def test_slurm_starts_torchrun_on_every_node(workspace, run):
    tools = workspace / 'bin'
    tools.mkdir()
    for name, text in [
        (
            'srun',
            'echo "$@"; while [ "$1" != bash ]; do shift; done; '
            'SLURM_NNODES=2 SLURM_NODEID=1 SLURM_JOB_ID=31234 "$@"',
        ),
        ('scontrol', 'echo first; echo second'),
        ('python', 'echo "$@"'),
    ]:
        (tools / name).write_text(f'#!/bin/bash\n{text}\n')
        (tools / name).chmod(0o755)
    process = run(
        'slurm_train.sh',
        'part',
        'job',
        'a config.py',
        'out',
        '--amp',
        GPUS='16',
        PYTHON='python',
        PATH=f'{tools}{os.pathsep}{os.environ["PATH"]}',
    )
    srun, *_, torchrun = process.out.strip().split('\n')
    assert '--nodes=2 --ntasks-per-node=1 --cpus-per-task=40' in srun
    assert (
        '--nnodes 2 --node_rank 1 --master_addr first '
        '--master_port 21234 --nproc_per_node 8'
    ) in torchrun
    assert torchrun.endswith(
        'train.py a config.py --launcher pytorch --work-dir out --amp'
    )
