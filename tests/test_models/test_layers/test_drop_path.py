"""Drop path, also where it leaves no sample of a batch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from torch import nn

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import Block, Draw, draw_drop_path

ROOT = Path(__file__).parents[3]

TWO_PROCESSES = """
import sys
from copy import deepcopy

import numpy as np
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
vit.drop_path_rates = [0.5, 0.5]
alone = deepcopy(vit)
wrapped = DistributedDataParallel(vit)  # without find_unused_parameters
images = torch.randn(2, 1, 3, 32, 32)

# One image per process. In the first iteration process 0 drops every branch and
# process 1 keeps every branch; in the second it is the other way round.
def draws(rank, iteration):
    value = 0.1 if rank == iteration else 0.9  # kept from 0.5 on
    return lambda shape: np.full(shape, value)

for iteration in range(2):
    expected = [torch.zeros_like(p) for p in alone.parameters()]
    for rank in range(2):
        np.random.random = draws(rank, iteration)
        alone.zero_grad()
        alone(images[rank])[0].square().sum().backward()
        for total, p in zip(expected, alone.parameters(), strict=True):
            total += 0 if p.grad is None else p.grad / 2
    np.random.random = draws(dist.get_rank(), iteration)
    wrapped.zero_grad()
    wrapped(images[dist.get_rank()])[0].square().sum().backward()
    for (name, p), wanted in zip(vit.named_parameters(), expected, strict=True):
        if p.requires_grad:
            assert p.grad is not None, name
            torch.testing.assert_close(p.grad, wanted, msg=name)
    assert all(wanted.any() for (name, p), wanted
               in zip(vit.named_parameters(), expected, strict=True)
               if p.requires_grad and 'rel' not in name)
del wrapped
sys.path.insert(0, 'tools')
from command_line import leave_process_group
leave_process_group()
"""


CPU = torch.device('cpu')
ARCH = dict(tiny.ARCH, num_layers=3)


def keep(*samples, scale=2.0):
    """A draw that keeps a branch for the samples with these indices."""
    return Draw(kept=(torch.tensor(samples, dtype=torch.long), scale))


def test_draws_have_the_rates_of_their_branches():
    rates = [0.0, 0.1, 0.5, 0.9]
    draws = draw_drop_path(rates, 20000, CPU)
    assert draws[0] is None
    for rate, draw in zip(rates[1:], draws[1:]):
        kept, scale = draw.kept
        assert len(kept) / 20000 == pytest.approx(1 - rate, abs=0.015)
        assert scale == pytest.approx(1 / (1 - rate))
        assert torch.equal(kept.unique(), kept)
    # The branches are drawn independently of one another.
    first, second = (torch.zeros(20000) for _ in range(2))
    first[draws[1].kept[0]] = 1
    second[draws[2].kept[0]] = 1
    assert (first * second).mean().item() == pytest.approx(0.9 * 0.5, abs=0.015)


def test_factors_and_indices_are_the_same_draws():
    rates = [0.0, 0.25, 0.5]
    np.random.seed(3)
    draws = draw_drop_path(rates, 9, CPU)
    np.random.seed(3)
    factors = draw_drop_path(rates, 9, CPU, factors=True)
    assert torch.equal(factors[0].factor, torch.ones(9))
    for draw, factor in zip(draws[1:], factors[1:]):
        kept, scale = draw.kept
        expected = torch.zeros(9).index_fill(0, kept, scale)
        torch.testing.assert_close(factor.factor, expected)


def test_nothing_is_drawn_without_a_rate(monkeypatch):
    monkeypatch.setattr(np.random, 'random', pytest.fail)
    assert draw_drop_path([0.0, 0.0], 4, CPU) == [None, None]


@pytest.mark.parametrize('factors', [False, True])
@pytest.mark.parametrize('queries', [False, True])
def test_branches_are_added_to_the_samples_that_keep_them(queries, factors):
    """The result is x + kept / (1 - p) * branch, and gradients follow from it."""
    block = Block(8, 2, 16, layer_scale_init_value=1.0)
    x = torch.randn(6, 5, 8, requires_grad=True)
    index = torch.tensor([[1, 3]] * 6) if queries else None
    kept = [torch.tensor([1.0, 0, 0, 1, 1, 0]), torch.tensor([0.0, 0, 1, 1, 0, 0])]
    draws = [
        Draw(factor=2 * k) if factors else Draw(kept=(k.nonzero()[:, 0], 2.0))
        for k in kept
    ]
    inputs = [x, *block.parameters()]
    out = block(x, (2, 2), None, index, draws)

    base = x if index is None else x[:, [1, 3]]
    attended = block.gamma_1 * block.attn(block.norm1(x), (2, 2), None, index)
    y = base + 2 * kept[0][:, None, None] * attended
    expected = y + 2 * kept[1][:, None, None] * block.gamma_2 * block.mlp(
        block.norm2(y)
    )
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    got = torch.autograd.grad((out * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize('kind', ['frozen', 'eval'])
def test_blocks_that_do_not_train_drop_nothing(kind):
    vit = MaskDistillViT(
        ARCH,
        img_size=32,
        drop_path_rate=0.9,
        frozen_stages=3 if kind == 'frozen' else -1,
    )
    vit.train(kind == 'frozen')
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(vit(images)[0], vit(images)[0])


def test_a_checkpointed_block_recomputes_the_same_samples():
    vit = MaskDistillViT(ARCH, img_size=32, drop_path_rate=0.5, out_type='raw')
    vit.init_weights()
    images, found = torch.randn(6, 3, 32, 32), []
    for vit.with_cp in (False, True):
        np.random.seed(5)
        vit.zero_grad()
        vit(images)[0].square().mean().backward()
        found.append([p.grad.clone() for p in vit.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


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
    table_grid = (2, 2) if bias in ('own', 'both') else None
    block = Block(8, 2, 16, table_grid=table_grid)
    x = torch.randn(2, 5, 8, requires_grad=True)
    shared = nn.Parameter(torch.randn(2, 5, 5)) if bias in ('shared', 'both') else None
    queries = None if queries is None else torch.tensor(queries)
    block.mlp.fc1.register_forward_pre_hook(pytest.fail)
    out = block(x, (2, 2), shared, queries, (keep(), keep()))
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
    block = Block(8, 2, 16)
    block.attn.requires_grad_(False)
    out = block(torch.randn(2, 5, 8), (2, 2), draws=(keep(), keep()))
    out.sum().backward()
    assert all(p.grad is None for p in block.attn.parameters())
    assert all(p.grad is not None for p in block.mlp.parameters())


@pytest.mark.parametrize('batch, hidden', [(0, 2), (3, 0)])
def test_no_kernel_runs_for_no_tokens(batch, hidden, kernels):
    """An empty batch, and a batch of which no token is asked for."""
    block = Block(8, 2, 16)
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
