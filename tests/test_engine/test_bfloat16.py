import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmmaskdistill.engine import Bfloat16OptimWrapper


def model_and_wrapper(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='mmmaskdistill.Bfloat16OptimWrapper',
            optimizer=dict(type='SGD', lr=0.5),
            **options,
        ),
    )
    return model, wrapper


def step_by_hand(model, inputs):
    """One step of SGD: autocast forward pass, float32 parameters."""
    with torch.autocast('cpu', torch.bfloat16):
        output = model(inputs)
    loss = output.float().square().mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return output, [
        p.detach() - 0.5 * g for p, g in zip(model.parameters(), gradients, strict=True)
    ]


def test_step_equals_autocast_with_parameters_in_float32():
    model, wrapper = model_and_wrapper()
    assert isinstance(wrapper, Bfloat16OptimWrapper)
    inputs = torch.randn(16, 8)
    expected_output, expected = step_by_hand(model, inputs)

    with wrapper.optim_context(model):
        output = model(inputs)
    wrapper.update_params(output.float().square().mean())

    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected_output)
    for parameter, value in zip(model.parameters(), expected, strict=True):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, value)
    assert 'loss_scaler' not in wrapper.state_dict()


def test_gradients_are_accumulated_and_clipped_as_in_float32():
    model, wrapper = model_and_wrapper(
        accumulative_counts=2, clip_grad=dict(max_norm=0.01)
    )
    wrapper.initialize_count_status(model, 0, 2)
    before = [p.detach().clone() for p in model.parameters()]
    for i in range(2):
        with wrapper.optim_context(model):
            output = model(torch.randn(16, 8))
        wrapper.update_params(output.float().square().mean())
        moved = [
            (p.detach() - b).flatten()
            for p, b in zip(model.parameters(), before, strict=True)
        ]
        if i == 0:
            assert all(m.eq(0).all() for m in moved)
    # The learning rate is 0.5 and the norm of the gradient is clipped to 0.01.
    assert torch.cat(moved).norm().item() == pytest.approx(0.005, rel=1e-3)
