import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmmaskdistill.compat import amp

SGD = dict(type='SGD', lr=1.0, weight_decay=0.1)


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(amp, 'has_accelerator', lambda: False)
    for kind in ('cuda', 'npu', 'mlu', 'musa'):
        monkeypatch.setattr(
            amp_optimizer_wrapper, f'is_{kind}_available', lambda: False
        )


def sgd():
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)


def test_unpatched_mmengine_refuses_amp_without_accelerator():
    wrapper = object.__new__(AmpOptimWrapper)
    with pytest.raises(AssertionError, match='only available training'):
        wrapper.__init__(optimizer=sgd())


@pytest.mark.parametrize(
    'options',
    [
        dict(loss_scale='dynamic'),
        dict(loss_scale=512.0, dtype='float16'),
        dict(loss_scale=dict(init_scale=512.0), dtype='bfloat16', use_fsdp=False),
    ],
)
def test_fallback_without_accelerator_keeps_other_options(options):
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='AmpOptimWrapper',
            optimizer=sgd(),
            accumulative_counts=2,
            clip_grad=dict(max_norm=1.0),
            **options,
        )
    )
    assert type(wrapper) is OptimWrapper
    assert wrapper._accumulative_counts == 2
    assert wrapper.clip_grad_kwargs == dict(max_norm=1.0)


def test_fallback_is_logged_with_the_dropped_options(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        AmpOptimWrapper(optimizer=sgd(), loss_scale=512.0)
    finally:
        logger.removeHandler(caplog.handler)
    assert 'OptimWrapper (loss_scale=512.0' in caplog.text


def test_fallback_works_with_a_layer_decay_constructor():
    from mmpretrain.models import VisionTransformer

    vit = VisionTransformer(
        arch=dict(embed_dims=4, num_layers=1, num_heads=1, feedforward_channels=4),
        img_size=16,
        patch_size=8,
    )
    model = nn.Sequential()
    model.backbone = vit
    model.get_layer_depth = lambda name: vit.get_layer_depth(name, 'backbone.')
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='AmpOptimWrapper',
            optimizer=SGD,
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    assert type(wrapper) is OptimWrapper
    assert len({group['lr'] for group in wrapper.param_groups}) > 1


def test_fallback_trains(build_runner):
    runner = build_runner(optim_wrapper='AmpOptimWrapper')
    before = runner.model.linear.weight.clone()
    runner.train()
    assert type(runner.optim_wrapper) is OptimWrapper
    assert not torch.equal(before, runner.model.linear.weight)


def test_fallback_loads_a_state_dict_with_a_loss_scale():
    wrapper = OptimWrapper(sgd())
    state = wrapper.state_dict()
    state['loss_scaler'] = dict(scale=512.0)
    state['param_groups'][0]['lr'] = 0.25
    wrapper.load_state_dict(state)
    assert wrapper.param_groups[0]['lr'] == 0.25


def test_with_accelerator_the_wrapper_is_unchanged(monkeypatch):
    monkeypatch.setattr(amp, 'has_accelerator', lambda: True)
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper, loss_scale=512.0)
    assert type(wrapper) is AmpOptimWrapper


def test_subclass_of_the_wrapper_is_unchanged():

    class Own(AmpOptimWrapper):
        pass

    assert type(Own.__new__(Own)) is Own
