"""Compiled blocks compute the same numbers, with few graphs and no breaks."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.small_configs import shrink_recipe
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from mmmaskdistill.apis.memory import build_without_values, random_batch
from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.engine.compiling import transformer_blocks
from mmmaskdistill.models.layers import Block

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSIFIER = 'finetune/vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k'
SEGMENTOR = 'segmentation/vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512'


def pretraining(drop_path_rate=0.0, **backbone):
    torch.manual_seed(0)
    model = tiny.build(
        backbone=dict(
            tiny.STUDENT,
            arch=dict(tiny.ARCH, num_layers=6),
            drop_path_rate=drop_path_rate,
            **backbone,
        )
    )
    return model.train()


def loss_and_gradients(model, batch=4, seed=1):
    torch.manual_seed(seed)
    np.random.seed(seed)
    images = torch.randn(batch, 3, 64, 64)
    mask = torch.rand(batch, 16).argsort(1) < 6
    loss = model.loss([images, images], [DataSample(mask=m) for m in mask])['loss']
    model.zero_grad()
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters()}


def runner(model, tmp_path, **cfg):
    return ResumableRunner(model, str(tmp_path), cfg=cfg, experiment_name=tmp_path.name)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(drop_path_rate=0.3),
        dict(use_rel_pos_bias=True, use_shared_rel_pos_bias=False),
        dict(with_cp=True),
    ],
)
def test_compiled_blocks_have_the_same_loss_and_gradients(tmp_path, options):
    torch._dynamo.reset()
    plain, compiled = pretraining(**options), pretraining(**options)
    runner(
        compiled,
        tmp_path,
        compile=dict(backend='aot_eager', fullgraph=True, dynamic=False),
    )._maybe_compile('train_step')
    (loss, gradients), (expected, wanted) = map(loss_and_gradients, (compiled, plain))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * max(
            gradient.norm(), 1e-3
        ), name


def test_blocks_share_graphs():
    """Three graphs are enough for the 12 blocks, over ten steps with drop path.

    The student has two: its blocks, and its last block, which computes only the hidden
    patches. The teacher's blocks share one, except for the last: code that is not
    compiled computes some of its tokens.
    """
    torch._dynamo.reset()
    model, counter = pretraining(drop_path_rate=0.3), CompileCounter()
    assert len(transformer_blocks(model)) == 12
    for block in transformer_blocks(model):
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    for step in range(10):
        loss_and_gradients(model, seed=step)
    assert counter.frame_count == 3


def test_batches_of_all_sizes_share_graphs():
    torch._dynamo.reset()
    model, counter = pretraining(), CompileCounter()
    backend = aot_autograd(fw_compiler=counter)
    for block in transformer_blocks(model):
        block.compile(backend=backend, fullgraph=True)
    graphs = []
    for batch in (2, 3, 4, 6):
        loss_and_gradients(model, batch)
        graphs.append(counter.frame_count)
    # The second batch size has made the size a variable of the graphs.
    assert graphs[1] == graphs[3]


@pytest.mark.parametrize('fullgraph', [False, True])
def test_compiled_block_handles_several_grids(fullgraph):
    """Compiled blocks accept other patch grids than their own.

    SciPy's spline, which resizes the table of relative position biases, breaks
    the graph; with ``fullgraph`` only the block's own grid is possible.
    """
    torch._dynamo.reset()
    for own in ((2, 2), (3, 3)):
        torch.manual_seed(0)
        block = Block(16, 2, 32, table_grid=own)
        nn.init.normal_(block.attn.relative_position_bias_table)
        compiled = deepcopy(block)
        compiled.compile(backend='aot_eager', fullgraph=fullgraph)
        for h, w in [own] if fullgraph else [own, (2, 3), own]:
            x = torch.randn(2, 1 + h * w, 16)
            torch.testing.assert_close(compiled(x, (h, w)), block(x, (h, w)))


def test_compiled_blocks_have_the_same_loss_under_autocast(tmp_path):
    torch._dynamo.reset()
    plain, compiled = pretraining(), pretraining()
    for block in transformer_blocks(compiled):
        block.compile(backend='aot_eager', fullgraph=True)
    with torch.autocast('cpu', torch.bfloat16):
        (loss, _), (expected, _) = map(loss_and_gradients, (compiled, plain))
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


def downstream(name):
    """Make a small classifier or segmentor with drop path, and a step of it."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py', format_python_code=False)
    shrink_recipe(cfg)
    cfg.model.backbone.update(drop_path_rate=0.3)
    model = build_without_values(cfg)

    def step(seed):
        np.random.seed(seed)
        losses = model.loss(**random_batch(cfg, model, 4, 0.4))
        sum(v for key, v in losses.items() if 'loss' in key).backward()

    return model, step


@pytest.mark.parametrize('name', ['pretraining', CLASSIFIER, SEGMENTOR])
def test_nothing_is_compiled_after_the_second_iteration(name):
    """The shapes of a step are numbers, whatever is hidden or dropped."""
    torch._dynamo.reset()
    if name == 'pretraining':
        model = pretraining(drop_path_rate=0.3)

        def step(seed):
            loss_and_gradients(model, seed=seed)
    else:
        model, step = downstream(name)
    sizes = []

    def backend(graph, inputs):
        sizes.extend(size for x in inputs for size in getattr(x, 'shape', (x,)))
        return graph.forward

    for block in transformer_blocks(model):
        block.compile(backend=backend)
    for seed in range(2):
        step(seed)
    assert sizes and all(type(size) is int for size in sizes)
    count = len(sizes)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(2, 6):
            step(seed)
    assert len(sizes) == count


def test_recipes_are_not_compiled():
    """Until it was measured on a GPU that it pays."""
    for folder in ('pretrain', 'finetune', 'segmentation', 'unified', 'own_data'):
        for path in (CONFIGS / folder).glob('*.py'):
            assert 'compile' not in path.read_text(), path


@pytest.mark.parametrize('cfg', [{}, dict(compile=False), dict(compile=None)])
def test_blocks_are_not_compiled_by_default(tmp_path, cfg):
    model = pretraining()
    runner(model, tmp_path, **cfg)._maybe_compile('train_step')
    assert all(block._compiled_call_impl is None for block in transformer_blocks(model))


def test_compiling_keeps_the_state_dict_keys(tmp_path):
    model, names = pretraining(), set(pretraining().state_dict())
    runner(model, tmp_path, compile=True)._maybe_compile('train_step')
    assert set(model.state_dict()) == names
