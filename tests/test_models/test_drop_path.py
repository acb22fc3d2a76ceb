"""Drop path, also where it leaves no sample of a batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmaskdistill.models.layers.block import Block

ROOT = Path(__file__).parents[2]

TWO_PROCESSES = """
import sys
from copy import deepcopy

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mmmaskdistill.models import MaskDistillViT

dist.init_process_group('gloo')
torch.manual_seed(0)
vit = MaskDistillViT(
    dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=32, out_type='raw', final_norm=True, drop_path_rate=0.5,
    use_rel_pos_bias=sys.argv[1] == 'own',
    use_shared_rel_pos_bias=sys.argv[1] == 'shared')
vit.init_weights()
vit.train()
for block in vit.blocks:
    block.drops, block.drop_path = True, 0.5
alone = deepcopy(vit)
wrapped = DistributedDataParallel(vit)  # without find_unused_parameters
images = torch.randn(2, 1, 3, 32, 32)

# One image per process. In the first iteration process 0 drops every branch and
# process 1 keeps every branch; in the second it is the other way round.
def draws(rank, iteration):
    dropped = rank == iteration
    return lambda *args, **kwargs: torch.full((1,), 0.9 if dropped else 0.1)

rand = torch.rand
for iteration in range(2):
    expected = [torch.zeros_like(p) for p in alone.parameters()]
    for rank in range(2):
        torch.rand = draws(rank, iteration)
        alone.zero_grad()
        alone(images[rank])[0].square().sum().backward()
        for total, p in zip(expected, alone.parameters(), strict=True):
            total += 0 if p.grad is None else p.grad / 2
    torch.rand = draws(dist.get_rank(), iteration)
    wrapped.zero_grad()
    wrapped(images[dist.get_rank()])[0].square().sum().backward()
    for (name, p), wanted in zip(vit.named_parameters(), expected, strict=True):
        if p.requires_grad:
            assert p.grad is not None, name
            torch.testing.assert_close(p.grad, wanted, msg=name)
    assert all(wanted.any() for (name, p), wanted
               in zip(vit.named_parameters(), expected, strict=True)
               if p.requires_grad and 'rel' not in name)
dist.destroy_process_group()
"""


@pytest.fixture
def kernels(monkeypatch):
    """The sizes of all batches that attention kernels were called with."""
    sizes = []
    attention = F.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        sizes.append(query.numel())
        return attention(query, *args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', counting)
    return sizes


@pytest.mark.parametrize('bias', ['none', 'shared', 'own', 'both'])
@pytest.mark.parametrize('queries', [None, [[0, 2], [1, 4]]])
def test_a_batch_that_drops_all_branches_runs_no_kernel(bias, queries, kernels):
    """All parameters of the block and the shared bias get gradients of zero."""
    window = (2, 2) if bias in ('own', 'both') else None
    block = Block(8, 2, 16, drop_path=0.999, window=window)
    x = torch.randn(2, 5, 8, requires_grad=True)
    shared = nn.Parameter(torch.randn(2, 5, 5)) if bias in ('shared', 'both') else None
    queries = None if queries is None else torch.tensor(queries)
    block.mlp.fc1.register_forward_pre_hook(pytest.fail)
    out = block(x, (2, 2), shared, queries)
    expected = x if queries is None else x.gather(1, queries[..., None].expand(2, 2, 8))
    assert torch.equal(out, expected)
    assert not kernels
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    assert torch.equal(x.grad, wanted)
    learned = [*block.parameters(), *([] if shared is None else [shared])]
    assert all(p.grad is not None and not p.grad.any() for p in learned)


def test_frozen_parameters_get_no_gradient():
    block = Block(8, 2, 16, drop_path=0.999)
    block.attn.requires_grad_(False)
    block(torch.randn(2, 5, 8), (2, 2)).sum().backward()
    assert all(p.grad is None for p in block.attn.parameters())
    assert all(p.grad is not None for p in block.mlp.parameters())


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('batch, hidden', [(0, 2), (3, 0)])
def test_no_kernel_runs_for_no_tokens(train, batch, hidden, kernels):
    """An empty batch, and a batch of which no token is asked for."""
    block = Block(8, 2, 16).train(train)
    x = torch.randn(batch, 5, 8, requires_grad=True)
    index = torch.zeros(batch, hidden, dtype=torch.long)
    out = block(x, (2, 2), None, index)
    assert out.shape == (batch, hidden, 8)
    assert not kernels
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


@pytest.mark.parametrize('bias', ['shared', 'own'])
def test_two_processes_wait_for_no_gradient(bias, tmp_path):
    """One process drops all branches while the other one keeps them."""
    script = tmp_path / 'train.py'
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    run = subprocess.run(
        [*command, '--nproc_per_node', '2', str(script), bias],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
