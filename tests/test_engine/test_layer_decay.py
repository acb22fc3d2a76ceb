import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmmaskdistill.engine.optimizer_state import fit_state, implementation
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistillViT


class Segmentor(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = MaskDistillViT('tiny', **kwargs)
        self.decode_head = nn.Sequential(nn.Conv2d(192, 8, 1), nn.BatchNorm2d(8))


def build(model, optimizer=(), clip_grad=None, **paramwise):
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, **dict(optimizer)),
            clip_grad=clip_grad,
            constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise,
        ),
    )


def settings(model, wrapper):
    """Map each parameter's name to its (learning rate, weight decay)."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: (g['lr'], g['weight_decay'])
        for g in wrapper.optimizer.param_groups
        for p in g['params']
    }


def test_every_parameter_has_the_lr_and_weight_decay_of_the_rule():
    model = Segmentor(use_rel_pos_bias=True, use_shared_rel_pos_bias=False)
    rate = 0.65
    wrapper = build(
        model,
        layer_decay_rate=rate,
        flat_decay_mult=0.0,
        custom_keys={'cls_token': dict(decay_mult=0.0)},
    )
    result = settings(model, wrapper)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(result) == trained
    for name, (lr, decay) in result.items():
        if 'backbone.blocks' in name:
            depth = int(name.split('.')[2]) + 1
        elif name.split('.')[1] in ('cls_token', 'patch_embed'):
            depth = 0
        else:
            depth = 13
        assert lr == pytest.approx(1e-3 * rate ** (13 - depth)), name
        shape = dict(model.named_parameters())[name].shape
        flat = len(shape) == 1 or 'cls_token' in name
        assert decay == (0.0 if flat else 0.05), name
    # Tensors of the same depth and weight decay share one group.
    assert len(wrapper.optimizer.param_groups) == 28


def test_frozen_parameters_are_left_out():
    model = Segmentor(frozen_stages=3)
    names = settings(model, build(model, layer_decay_rate=0.9))
    assert not any(n.startswith('backbone.blocks.2.') for n in names)
    assert 'backbone.mask_token' not in names


def test_precedence_of_weight_decay_rules():
    model = Segmentor()
    result = settings(
        model,
        build(
            model,
            norm_decay_mult=0.1,
            bias_decay_mult=0.2,
            flat_decay_mult=0.3,
            custom_keys={
                'blocks': dict(lr_mult=0.5),
                'blocks.1.norm1': dict(decay_mult=0.4),
            },
        ),
    )
    for name, lr, decay in [
        ('backbone.blocks.0.norm1.bias', 0.5, 0.1),
        ('backbone.blocks.1.norm1.bias', 1, 0.4),
        ('backbone.blocks.0.attn.proj.bias', 0.5, 0.2),
        ('backbone.blocks.0.attn.q_bias', 0.5, 0.2),
        ('backbone.blocks.0.gamma_1', 0.5, 0.3),
        ('decode_head.0.weight', 1, 1),
        ('decode_head.1.weight', 1, 0.1),
    ]:
        assert result[name] == pytest.approx((1e-3 * lr, 0.05 * decay)), name


def test_table_of_parameter_groups_is_logged(caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    model = Segmentor()
    build(model, layer_decay_rate=0.5, flat_decay_mult=0.0)
    logger.removeHandler(caplog.handler)
    (message,) = [m for m in caplog.messages if m.startswith('Parameter gro')]
    lines = [
        line.split('|')[1:-1] for line in message.split('\n') if line.startswith('|')
    ]
    assert [cell.strip() for cell in lines[0]] == [
        'depth',
        'lr scale',
        'weight decay',
        'tensors',
        'parameters',
    ]
    counts = [int(line[4].replace(',', '')) for line in lines[1:]]
    assert sum(counts) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_without_layer_decay_one_group_spans_all_depths():
    model = Segmentor()
    groups = build(model, flat_decay_mult=0.0).optimizer.param_groups
    assert [(g['lr'], g['weight_decay']) for g in groups] == [(1e-3, 0), (1e-3, 0.05)]


def test_schedules_keep_the_scales_of_the_layers():
    """The last learning rates of a schedule are scaled like the first ones."""
    from mmengine.optim import CosineAnnealingLR

    model = Segmentor()
    wrapper = build(model, layer_decay_rate=0.65)
    schedule = CosineAnnealingLR(wrapper.optimizer, T_max=5, eta_min_ratio=0.01)
    start = [g['lr'] for g in wrapper.optimizer.param_groups]
    for _ in range(5):
        wrapper.optimizer.step()
        schedule.step()
    end = [g['lr'] for g in wrapper.optimizer.param_groups]
    assert end == pytest.approx([lr * 0.01 for lr in start])


def test_fused_adamw_updates_every_group_equally():
    """The optimizer of the recipes differs from torch's plain one by rounding only.

    A run that resumes may change the implementation.
    """
    found = []
    for choices in ((False, False), (True, True), (True, False), (False, True)):
        torch.manual_seed(0)
        model = Segmentor(use_rel_pos_bias=True, frozen_stages=2)
        parameters = dict(model.named_parameters())
        state = None
        for fused in choices:
            wrapper = build(
                model,
                dict(fused=fused),
                layer_decay_rate=0.65,
                flat_decay_mult=0.0,
                clip_grad=dict(max_norm=3.0),
            )
            optimizer = wrapper.optimizer
            if state is not None:
                chosen = implementation(optimizer)
                wrapper.load_state_dict(state)
                fit_state(optimizer, chosen)
            assert {group['fused'] for group in optimizer.param_groups} == {fused}
            for _ in range(2):
                wrapper.update_params(sum(p.square().sum() for p in model.parameters()))
            state = wrapper.state_dict()
        found.append({n: p.detach() for n, p in parameters.items()})
    for weights in found[1:]:
        torch.testing.assert_close(weights, found[0], rtol=1e-5, atol=1e-6)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"\['decay_rate'\]"):
        build(Segmentor(), decay_rate=0.75)
    with pytest.raises(ValueError, match=r"'norm'\] has \['lr'\]"):
        build(Segmentor(), custom_keys={'norm': dict(lr=1)})
    model = torch.nn.Module()
    model.backbone = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match='Conv2d of Module'):
        build(model, layer_decay_rate=0.75)
