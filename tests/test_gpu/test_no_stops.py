"""In a training step, the host does not wait for the GPU.

``tests/test_configs/test_no_stops.py`` checks the forward passes of all configs on a
fake GPU. Here torch raises an error in the whole step: the copies of the batch, forward
and backward pass, clipping and the optimizer's step.
"""

import pytest
import torch
from helpers.training_steps import batch, pretraining
from mmengine.optim import build_optim_wrapper
from torch.utils._pytree import tree_map_only

from mmmaskdistill.engine.prefetching import prefetched


@pytest.fixture
def no_stops(gpu):
    """Raise an error where the host waits for the GPU, inside ``with no_stops():``."""

    class NoStops:
        def __enter__(self):
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode('error')

        def __exit__(self, *error):
            torch.cuda.set_sync_debug_mode('default')

    return NoStops


def test_a_stop_is_an_error(gpu, no_stops):
    """If this fails, the other tests of this file show nothing."""
    x = torch.ones((), device=gpu)
    with pytest.raises(RuntimeError, match='synchroniz'), no_stops():
        x.item()


@pytest.mark.parametrize('own_tables', [False, True])
@pytest.mark.parametrize('fused', [True, None])
def test_host_does_not_wait_in_a_step(gpu, no_stops, own_tables, fused):
    options = {}
    if own_tables:
        options = dict(use_rel_pos_bias=True)
    model = pretraining(gpu, drop_path_rate=0.2, **options)
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='mmmaskdistill.Bfloat16OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-3, fused=fused),
            clip_grad=dict(max_norm=3.0),
        ),
    )

    def pinned(number):
        data = batch(number)
        return dict(data, inputs=data['inputs'].pin_memory())

    # Caches are filled and states are made in the first steps.
    for number in range(3):
        model.train_step(pinned(number), wrapper)
    batches = [pinned(number) for number in range(3, 6)]
    ahead = prefetched([pinned(number) for number in range(6, 9)], model)
    with no_stops():
        logs = [model.train_step(data, wrapper) for data in batches]
        logs += [model.train_step(data, wrapper) for data in ahead]
    values = tree_map_only(torch.Tensor, lambda x: x.item(), logs)
    assert all(0 < log['loss'] < 100 for log in values)
