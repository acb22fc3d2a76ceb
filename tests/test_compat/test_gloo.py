import os
import subprocess
import sys
from pathlib import Path

import mmengine.dist.utils
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from mmmaskdistill.compat import gloo

ROOT = Path(__file__).parents[2]

TRAIN = """
import sys
import torch
import mmmaskdistill.compat
from mmengine.dist import all_gather, get_backend, get_world_size
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import nn

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2))

    def forward(self, x, mode='tensor'):
        return dict(loss=self.net(x).pow(4).mean())

runner = Runner(
    Model(), sys.argv[1],
    train_dataloader=dict(
        dataset=[dict(x=torch.tensor([i, i * i / 8.])) for i in range(8)],
        collate_fn=dict(type='default_collate'),
        batch_size=2, sampler=dict(type='InfiniteSampler', seed=0)),
    train_cfg=dict(by_epoch=False, max_iters=2),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False)),
    env_cfg=dict(dist_cfg=dict(backend='nccl')),
    launcher='pytorch', randomness=dict(seed=0))
before = runner.model.module.net[0].weight.clone()
runner.train()
after = runner.model.module.net[0].weight.detach()
assert get_world_size() == 2 and get_backend() == 'gloo'
assert isinstance(runner.model, MMDistributedDataParallel)
assert not any(isinstance(m, nn.SyncBatchNorm) for m in runner.model.modules())
assert not torch.equal(before, after)
first, second = all_gather(after)
assert torch.equal(first, second)
"""


@pytest.mark.skipif(
    torch.cuda.is_available(), reason='mmengine works unpatched where there is a GPU'
)
def test_unpatched_mmengine_needs_a_gpu_for_gloo(monkeypatch):
    for name, value in dict(
        RANK='0',
        LOCAL_RANK='0',
        WORLD_SIZE='1',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT='29511',
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises((RuntimeError, AssertionError)):
        mmengine.dist.utils._init_dist_pytorch.__wrapped__('gloo')


@pytest.fixture
def single_process_group(tmp_path, monkeypatch):
    """A process group of one process, on a machine without an accelerator."""
    monkeypatch.setattr(gloo, 'has_accelerator', lambda: False)
    torch.distributed.init_process_group(
        'gloo', init_method=(tmp_path / 'group').as_uri(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_unpatched_mmengine_rejects_device_ids_on_cpu(single_process_group):
    wrapper = object.__new__(MMDistributedDataParallel)
    with pytest.raises(Exception, match='device_ids'):
        MMDistributedDataParallel.__init__.__wrapped__(
            wrapper, nn.Linear(1, 1), device_ids=[0]
        )


def test_wrapper_built_from_a_config_drops_device_ids(single_process_group):
    wrapper = MODEL_WRAPPERS.build(
        dict(
            type='MMDistributedDataParallel',
            module=nn.Linear(1, 1),
            device_ids=[0],
            find_unused_parameters=True,
        )
    )
    assert wrapper.device_ids is None
    assert wrapper.find_unused_parameters


def test_sync_batchnorm_becomes_batchnorm(single_process_group):
    norm = nn.SyncBatchNorm(2)
    nn.init.uniform_(norm.weight)
    wrapper = MMDistributedDataParallel(nn.Sequential(norm), device_ids=[0])
    x = torch.randn(4, 2, 3, 3)
    expected = nn.functional.batch_norm(
        x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps
    )
    torch.testing.assert_close(wrapper(x), expected)


def test_two_cpu_processes_train_the_same_weights(tmp_path):
    script = tmp_path / 'train.py'
    script.write_text(TRAIN)
    run = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            str(script),
            str(tmp_path / 'run'),
        ],
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert '1 SyncBatchNorm layers become BatchNorm' in run.stdout + run.stderr
