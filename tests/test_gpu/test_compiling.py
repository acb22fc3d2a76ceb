"""Compiled blocks, as ``compile = True`` in a config makes them.

``tests/test_engine/test_compiling.py`` tests more of them on the CPU.
"""

import torch
from helpers.training_steps import batch, loss_and_gradients, pretraining

from mmmaskdistill.engine.compiling import transformer_blocks


def compiled(device, **options):
    """Build the model with compiled blocks. Code for CPUs takes too long to compile."""
    torch._dynamo.reset()
    model = pretraining(device, **options)
    backend = 'inductor' if device.type == 'cuda' else 'aot_eager'
    for block in transformer_blocks(model):
        block.compile(backend=backend, fullgraph=True, dynamic=False)
    return model


def test_compiled_step_equals_the_plain_one(device, assert_close):
    expected, wanted = loss_and_gradients(pretraining('cpu'), batch())
    loss, gradients = loss_and_gradients(compiled(device), batch())
    assert_close(loss, expected, tolerance=1e-4)
    assert gradients.keys() == wanted.keys()
    got, reference = (
        torch.cat([g[name].cpu().flatten() for name in wanted])
        for g in (gradients, wanted)
    )
    assert_close(got, reference, tolerance=1e-4)


def test_compiled_step_equals_the_plain_one_under_autocast(gpu):
    losses = []
    for model in (pretraining(gpu), compiled(gpu)):
        with torch.autocast('cuda', torch.bfloat16):
            losses.append(loss_and_gradients(model, batch())[0])
    torch.testing.assert_close(*losses, rtol=3e-3, atol=0)


def test_nothing_is_compiled_after_the_second_step(gpu):
    model = compiled(gpu, drop_path_rate=0.3)
    for number in range(2):
        loss_and_gradients(model, batch(number))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number in range(2, 6):
            loss_and_gradients(model, batch(number))
