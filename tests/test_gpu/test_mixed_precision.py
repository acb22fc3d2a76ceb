"""A step of pre-training in mixed precision, against float32 on the CPU."""

import pytest
import torch
from helpers.training_steps import batch, loss_and_gradients, loss_of, pretraining
from mmengine.optim import build_optim_wrapper


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_has_the_loss_and_gradients_of_float32(device, dtype, assert_close):
    expected, wanted = loss_and_gradients(pretraining('cpu'), batch())
    model = pretraining(device)
    with torch.autocast(device.type, dtype):
        loss, gradients = loss_and_gradients(model, batch())
    assert loss.dtype == torch.float32
    assert_close(loss, expected, dtype, 'loss')
    assert gradients.keys() == wanted.keys()
    got, reference = (
        torch.cat([g[name].cpu().flatten() for name in wanted])
        for g in (gradients, wanted)
    )
    assert got.dtype == torch.float32
    assert torch.cosine_similarity(got, reference, 0) > 0.999


@pytest.mark.parametrize('attention', ['recompute', 'gather', 'efficient'])
def test_full_precision_equals_the_cpu(device, attention, assert_close):
    """The tiny model's heads are too narrow for FlexAttention."""
    if attention == 'efficient' and device.type == 'cpu':
        pytest.skip('needs a GPU')
    expected, wanted = loss_and_gradients(pretraining('cpu'), batch())
    model = pretraining(device, attention=attention)
    loss, gradients = loss_and_gradients(model, batch())
    assert_close(loss, expected)
    assert gradients.keys() == wanted.keys()
    got, reference = (
        torch.cat([g[name].cpu().flatten() for name in wanted])
        for g in (gradients, wanted)
    )
    assert_close(got, reference)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_step_that_overflows_in_float16_is_skipped(device, assert_close):
    """The first loss scale makes gradients infinite, the second one does not."""
    model = pretraining(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.float16):
            loss = loss_of(model, batch())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    before = weights(model)
    step()
    assert torch.equal(weights(model), before)
    assert scaler.get_scale() == 2.0**39
    scaler.update(2.0**8)
    step()
    assert scaler.get_scale() == 2.0**8
    moved = weights(model) - before
    plain = pretraining('cpu')
    loss_and_gradients(plain, batch())
    torch.optim.SGD(plain.parameters(), 0.1).step()
    expected = weights(plain) - before.cpu()
    assert torch.cosine_similarity(moved.cpu(), expected, 0) > 0.999


def test_mmengines_wrapper_skips_the_step_and_continues(gpu):
    """On the CPU, it is replaced by a wrapper without mixed precision."""
    model = pretraining(gpu)
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='AmpOptimWrapper',
            dtype='float16',
            loss_scale=dict(init_scale=2.0**40),
            optimizer=dict(type='AdamW', lr=1e-3),
            clip_grad=dict(max_norm=3.0),
        ),
    )
    before = weights(model)
    model.train_step(batch(), wrapper)
    assert torch.equal(weights(model), before)
    for _ in range(40):
        model.train_step(batch(), wrapper)
    after = weights(model)
    assert after.isfinite().all() and not torch.equal(after, before)
