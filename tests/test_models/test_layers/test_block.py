"""A block calls its modules as soon as calling them makes a difference."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from torch import nn
from torch.nn.utils import parametrize, prune

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import Attention, Block

GRID = (2, 3)
LINEAR = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2']


@pytest.fixture(params=['no table', 'own table', 'no layer scale'])
def block(request):
    block = Block(
        16,
        2,
        32,
        layer_scale_init_value=0.0 if request.param == 'no layer scale' else 0.7,
        table_grid=GRID if request.param == 'own table' else None,
    )
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    return block


def by_modules(block, x, queries=None):
    """The textbook formula, from the modules' own calls."""
    scale_1 = 1.0 if block.gamma_1 is None else block.gamma_1
    scale_2 = 1.0 if block.gamma_2 is None else block.gamma_2
    y = x if queries is None else x[:, queries[0]]
    y = y + scale_1 * block.attn(block.norm1(x), GRID, None, queries)
    return y + scale_2 * block.mlp(block.norm2(y))


@pytest.fixture(params=[None, [1, 4]], ids=['all', 'some'])
def queries(request):
    return None if request.param is None else torch.tensor([request.param] * 3)


def check(block, x, queries, expected, **tolerance):
    """Compare values and all gradients of a block with an expected output."""
    inputs = [x, *(p for p in block.parameters() if p.requires_grad)]
    out = block(x, GRID, None, queries)
    torch.testing.assert_close(out, expected, **tolerance)
    weights = torch.randn_like(out)
    got = torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs, allow_unused=True)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_untouched_block_computes_the_textbook_formula(block, queries):
    x = torch.randn(3, 7, 16, requires_grad=True)
    check(block, x, queries, by_modules(block, x, queries))


def test_hooks_of_all_submodules_fire(block, queries):
    """Forward and backward hooks, once each."""
    x = torch.randn(3, 7, 16, requires_grad=True)
    expected = block(x, GRID, None, queries)
    fired = []
    for name, module in block.named_modules():
        if name:
            module.register_forward_pre_hook(lambda *_, n=name: fired.append((n, 1)))
            module.register_forward_hook(lambda *_, n=name: fired.append((n, 2)))
            module.register_full_backward_hook(lambda *_, n=name: fired.append((n, 3)))
    out = block(x, GRID, None, queries)
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    names = [name for name, _ in block.named_modules() if name]
    assert sorted(fired) == sorted((name, i) for name in names for i in (1, 2, 3))


@pytest.mark.parametrize('name', ['norm1', 'norm2', 'attn', 'mlp', 'mlp.act', *LINEAR])
def test_a_hook_that_changes_the_output_counts(block, name, queries):
    x = torch.randn(3, 7, 16)
    before = block(x, GRID, None, queries)
    handle = block.get_submodule(name).register_forward_hook(
        lambda module, args, output: output * 2
    )
    assert not torch.allclose(block(x, GRID, None, queries), before)
    handle.remove()
    assert torch.equal(block(x, GRID, None, queries), before)


@pytest.mark.parametrize('with_cp', [False, True])
def test_hooks_fire_again_where_a_block_is_computed_again(with_cp):
    vit = MaskDistillViT(tiny.ARCH, img_size=32, with_cp=with_cp)
    fired = []
    vit.blocks[0].mlp.fc1.register_forward_hook(lambda *_: fired.append(1))
    vit(torch.randn(1, 3, 32, 32))[0].sum().backward()
    assert len(fired) == 1 + with_cp


@pytest.mark.parametrize('name', ['norm1', 'norm2'])
def test_a_replaced_norm_is_used(block, name, queries):
    norm = nn.RMSNorm(16)
    nn.init.normal_(norm.weight)
    setattr(block, name, norm)
    x = torch.randn(3, 7, 16, requires_grad=True)
    check(block, x, queries, by_modules(block, x, queries))


@pytest.mark.parametrize(
    'name, new',
    [
        ('mlp.act', nn.ReLU()),
        ('mlp.act', nn.GELU('tanh')),
        ('mlp.norm', nn.LayerNorm(32)),
        ('attn.qkv', nn.Linear(16, 48)),  # with a bias, which BEiT's has not
        ('mlp.fc2', nn.Sequential(nn.Linear(32, 16), nn.Tanh())),
    ],
)
def test_a_replaced_module_is_used(block, name, new, queries):
    parent, _, child = name.rpartition('.')
    setattr(block.get_submodule(parent), child, new)
    x = torch.randn(3, 7, 16, requires_grad=True)
    check(block, x, queries, by_modules(block, x, queries))


def test_dropout_in_the_mlp_is_active_in_training(block):
    block.mlp.drop1.p = 0.9
    x = torch.randn(3, 7, 16)
    assert not torch.equal(block(x, GRID), block(x, GRID))
    block.eval()
    assert torch.equal(block(x, GRID), block(x, GRID))


@pytest.mark.parametrize('name', LINEAR)
def test_pruning_counts(block, name, queries):
    module = block.get_submodule(name)
    prune.l1_unstructured(module, 'weight', amount=0.5)
    x = torch.randn(3, 7, 16, requires_grad=True)
    out = block(x, GRID, None, queries)
    torch.testing.assert_close(out, by_modules(block, x, queries))
    out.sum().backward()
    pruned = module.weight_mask == 0
    assert pruned.any() and not module.weight_orig.grad[pruned].any()


@pytest.mark.parametrize('name', LINEAR)
def test_parametrizations_count(block, name, queries):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    x = torch.randn(3, 7, 16, requires_grad=True)
    module = block.get_submodule(name)
    parametrize.register_parametrization(module, 'weight', Double())
    check(block, x, queries, by_modules(block, x, queries))


def test_a_replaced_forward_method_is_used(block, queries):
    fc1 = block.mlp.fc1
    fc1.forward = partial(F.linear, weight=fc1.weight.detach() * 3)
    x = torch.randn(3, 7, 16, requires_grad=True)
    check(block, x, queries, by_modules(block, x, queries))


@pytest.fixture
def lora():
    """A ViT with LoRA layers by `peft`, their weights drawn at random."""
    peft = pytest.importorskip('peft')
    vit = MaskDistillViT(tiny.ARCH, img_size=32, use_rel_pos_bias=True)
    vit.init_weights()
    plain = {k: v.clone() for k, v in vit.state_dict().items()}
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=r'blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])',
    )
    adapted = peft.get_peft_model(vit, config)
    for name, p in adapted.named_parameters():
        if 'lora_' in name:
            nn.init.normal_(p, std=0.2)
    return adapted, plain


def test_lora_changes_the_output_as_its_formula_says(lora):
    """Each weight becomes W + alpha / r * B A."""
    adapted, plain = lora
    vit = MaskDistillViT(tiny.ARCH, img_size=32, use_rel_pos_bias=True)
    vit.load_state_dict(plain)
    images = torch.randn(2, 3, 32, 32)
    before = vit(images)[0]
    for i, block in enumerate(adapted.base_model.model.blocks):
        for name in LINEAR:
            layer = block.get_submodule(name)
            a, b = (layer.get_submodule(f'lora_{side}.default').weight for side in 'AB')
            own = vit.blocks[i].get_submodule(name).weight
            own.data += 8 / 4 * b.detach() @ a.detach()
    got = adapted(images)[0]
    torch.testing.assert_close(got, vit(images)[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, before, atol=1e-3)
    mask = torch.tensor([[True, False, True, False]] * 2)
    torch.testing.assert_close(
        adapted(images, mask), vit(images, mask), rtol=1e-5, atol=1e-5
    )


def test_lora_trains_alone_and_merges_back(lora):
    adapted, plain = lora
    images = torch.randn(2, 3, 32, 32)
    optimizer = torch.optim.SGD(adapted.parameters(), 0.1)
    adapted(images)[0].square().sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert len(trained) == 2 * 2 * len(LINEAR)  # A and B of every layer
    assert all('lora_' in name for name in trained)
    optimizer.step()
    adapted.eval()
    expected = adapted(images)[0]
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(images)[0], expected, rtol=1e-5, atol=1e-5)
    assert set(merged.state_dict()) == set(plain)


@pytest.mark.parametrize('own_table', [False, True])
@pytest.mark.parametrize('shared', [False, True])
def test_attention_weights_are_those_of_the_output(own_table, shared):
    """The weights times the values, projected, are the output of the attention."""
    grid = (3, 4)
    attention = Attention(24, 3, grid if own_table else None)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bias = torch.randn(3, 13, 13) if shared else None
    x = torch.randn(2, 13, 24)
    weights = attention.weights(x, grid, bias)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 13))
    values = attention.qkv(x)[..., 48:] + attention.v_bias
    values = values.unflatten(2, (3, 8)).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.proj(mixed), attention(x, grid, bias))
