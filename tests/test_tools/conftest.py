"""Small data, small configs, and processes that are killed on purpose."""

import os
import os.path as osp
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))

# This hook kills the process with SIGKILL in iteration $DIE_AT. Before the checkpoint
# of iteration $DIE_WRITING is saved, it limits the size of files: the process is then
# killed by SIGXFSZ in the middle of writing.
DEADLY_HOOK = """
import os, resource, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class DeadlyHook(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if str(runner.iter + 1) == os.environ.get('DIE_AT'):
            os.kill(os.getpid(), signal.SIGKILL)

    def before_save_checkpoint(self, runner, checkpoint):
        if str(checkpoint['meta']['iter']) == os.environ.get('DIE_WRITING'):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200000, hard))
"""

PRETRAIN = """
custom_imports = dict(imports=['mmmaskdistill', 'deadly'])
default_scope = 'mmpretrain'
optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
optim_wrapper = dict(optimizer=optimizer, clip_grad=dict(max_norm=3.))
model = dict(
    type='mmmaskdistill.MaskDistill',
    data_preprocessor=dict(
        type='mmmaskdistill.TwoViewDataPreprocessor',
        mean=[124, 116, 104], std=[58, 57, 57],
        second_mean=[127, 127, 127], second_std=[128, 128, 128]),
    backbone=dict(
        type='mmmaskdistill.MaskDistillViT',
        arch=dict(embed_dims=48, num_layers=2, num_heads=3,
                  feedforward_channels=96),
        img_size=64, drop_path_rate=0.5),
    teacher=dict(type='mmmaskdistill.TimmTeacher', model_name='test_vit',
                 pretrained='random', img_size=64),
    normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
    head=dict(type='mmmaskdistill.LinearHead', in_channels=48,
              out_channels=64),
    loss=dict(type='mmmaskdistill.SmoothL1Loss'))
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root='DATA', data_prefix='images',
        with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=64),
            dict(type='RandomFlip', prob=0.5),
            dict(type='SimMIMMaskGenerator', input_size=64,
                 mask_patch_size=16, model_patch_size=16, mask_ratio=0.4),
            dict(type='PackInputs')]))
train_cfg = dict(by_epoch=True, max_epochs=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=1,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=4,
         convert_to_iter_based=True)]
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
    logger=dict(type='LoggerHook', interval=1))
custom_hooks = [dict(type='DeadlyHook'),
                dict(type='EMAHook', momentum=0.1, update_buffers=True)]
"""

SEGMENT = """
custom_imports = dict(imports=['mmmaskdistill', 'deadly'])
default_scope = 'mmseg'
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
visualizer = dict(type='SegLocalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[124, 116, 104], std=[58, 57, 57],
    size=(64, 64), seg_pad_val=255)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmmaskdistill.MaskDistillViT',
        arch=dict(embed_dims=48, num_layers=2, num_heads=3,
                  feedforward_channels=96),
        img_size=64, drop_path_rate=0.5, out_indices=(1,)),
    decode_head=dict(
        type='FCNHead', in_channels=48, in_index=0, channels=16, num_convs=1,
        dropout_ratio=0.5, num_classes=150, norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset', data_root='DATA',
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomResize', scale=(96, 96), ratio_range=(0.7, 1.5)),
            dict(type='RandomCrop', crop_size=(64, 64)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs')]))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(64, 64))],
        [dict(type='RandomFlip', prob=p) for p in (0., 1.)],
        [dict(type='LoadAnnotations', reduce_zero_label=True)],
        [dict(type='PackSegInputs')]])]
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset', data_root='DATA',
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=3, by_epoch=False),
    dict(type='PolyLR', begin=3, end=8, by_epoch=False)]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    visualization=dict(type='SegVisualizationHook'))
custom_hooks = [dict(type='DeadlyHook')]
"""

CLASSIFY = """
custom_imports = dict(imports=['mmmaskdistill', 'deadly'])
default_scope = 'mmpretrain'
visualizer = dict(type='UniversalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(visualization=dict(type='VisualizationHook'))
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=2, mean=[124, 116, 104], std=[58, 57, 57]),
    backbone=dict(
        type='mmmaskdistill.MaskDistillViT',
        arch=dict(embed_dims=48, num_layers=2, num_heads=3,
                  feedforward_channels=96),
        img_size=64, out_type='avg_featmap', final_norm=False),
    head=dict(type='LinearClsHead', in_channels=48, num_classes=2,
              loss=dict(type='CrossEntropyLoss')))
test_dataloader = dict(
    batch_size=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root='DATA/classes',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64)),
            dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=1)
test_cfg = dict()
"""


@pytest.fixture(scope='session')
def workspace(tmp_path_factory):
    """A folder with images, label maps, class folders and configs."""
    folder = tmp_path_factory.mktemp('workspace')
    rng = np.random.default_rng(0)
    for name in ('images', 'annotations', 'classes/a', 'classes/b'):
        (folder / name).mkdir(parents=True)
    for k in range(16):
        image = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        labels = rng.integers(0, 5, (80, 96), dtype=np.uint8)
        Image.fromarray(image).save(folder / f'images/{k:02}.jpg')
        Image.fromarray(image).save(folder / f'classes/{"ab"[k % 2]}/{k}.jpg')
        Image.fromarray(labels).save(folder / f'annotations/{k:02}.png')
    (folder / 'deadly.py').write_text(DEADLY_HOOK)
    for name, text in [
        ('pretrain', PRETRAIN),
        ('segment', SEGMENT),
        ('classify', CLASSIFY),
    ]:
        (folder / f'{name}.py').write_text(text.replace('DATA', str(folder)))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope='session')
def start(workspace):
    """Start one of the tools in a new process."""

    def start(tool, *args, **env):
        command = [sys.executable] if tool.endswith('.py') else ['bash']
        return subprocess.Popen(
            [*command, osp.join(ROOT, 'tools', tool), *map(str, args)],
            cwd=workspace,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                'OMP_NUM_THREADS': '1',
                **os.environ,
                'PYTHON': sys.executable,
                'PYTHONPATH': os.pathsep.join(
                    [str(workspace), ROOT, os.environ.get('PYTHONPATH', '')]
                ),
                **env,
            },
        )

    return start


@pytest.fixture(scope='session')
def run(start):
    """Run one of the tools in a new process; it must fail if ``fails`` is set."""

    def run(*args, fails=False, **env):
        process = start(*args, **env)
        out, err = process.communicate(timeout=300)
        assert (process.returncode != 0) == fails, out[-3000:] + err[-3000:]
        process.out, process.err = out, err
        return process

    return run


@pytest.fixture(scope='session')
def segmentor(workspace, start, run):
    """The last checkpoints of an uninterrupted run and of a killed, resumed run."""
    whole = start(
        'train.py',
        'segment.py',
        '--work-dir',
        'segment-whole',
        '--cfg-options',
        'randomness.seed=3',
    )
    args = ['train.py', 'segment.py', '--work-dir', 'segment']
    killed = run(
        *args,
        '--no-validate',
        '--cfg-options',
        'randomness.seed=3',
        fails=True,
        DIE_AT='6',
    )
    assert killed.returncode == -signal.SIGKILL
    run(
        *args,
        '--resume',
        'segment/iter_4.pth',
        '--amp',
        '--cfg-options',
        'train_dataloader.num_workers=0',
    )
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    return workspace / 'segment-whole/iter_8.pth', workspace / 'segment/iter_8.pth'


@pytest.fixture
def tool(workspace, monkeypatch):
    """Run one of the tools in this process, where the slow imports are done."""
    monkeypatch.chdir(workspace)

    def tool(name, *args):
        path = osp.join(ROOT, 'tools', name)
        monkeypatch.syspath_prepend(osp.dirname(path))
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        runpy.run_path(path, run_name='__main__')

    return tool
