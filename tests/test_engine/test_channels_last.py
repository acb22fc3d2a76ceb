"""Convolutions with channels last compute the same, and runs can change the layout."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.errors import ConfigError


class Convolutions(BaseModel):
    """Two convolutions, of which the first has a bias without four dimensions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, inputs, mode='tensor'):
        maps = self.second(self.first(torch.stack(inputs)).relu())
        return dict(loss=maps.square().mean())


def runner(work_dir, iters=4, resume=False, fused=True, **cfg):
    torch.manual_seed(0)
    images = torch.randn(8, 3, 6, 6)
    return ResumableRunner(
        model=dict(type=Convolutions),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=[dict(inputs=image) for image in images],
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01, fused=fused)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)
        ),
        resume=resume,
        randomness=dict(seed=0),
        experiment_name=f'{work_dir}{iters}{resume}',
        cfg=Config(cfg),
    )


def weights(run):
    run.train()
    return run.model.state_dict()


def has_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_layout_changes_no_number(tmp_path):
    plain = weights(runner(tmp_path / 'plain'))
    run = runner(tmp_path / 'last', channels_last=True)
    for name, weight in weights(run).items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-5, atol=1e-6)
        # A kernel of one pixel has both layouts.
        assert weight.ndim < 4 or has_channels_last(weight)
    assert not plain['first.weight'].is_contiguous(memory_format=torch.channels_last)
    (state,) = [
        state
        for p, state in run.optim_wrapper.optimizer.state.items()
        if p.shape == (8, 3, 3, 3)
    ]
    assert has_channels_last(state['exp_avg'])


@pytest.mark.parametrize('before', [False, True])
def test_resumed_runs_may_have_another_layout(tmp_path, before):
    """The state of a fused optimizer gets the strides of the parameters."""
    plain = weights(runner(tmp_path / 'plain'))
    runner(tmp_path / 'parts', 2, channels_last=before).train()
    run = runner(tmp_path / 'parts', 4, resume=True, channels_last=not before)
    for name, weight in weights(run).items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-5, atol=1e-6)
    for parameter, state in run.optim_wrapper.optimizer.state.items():
        assert state['exp_avg'].stride() == parameter.stride()
        assert state['exp_avg_sq'].stride() == parameter.stride()


def test_resumed_runs_may_have_another_implementation(tmp_path):
    """torch would take the implementation from the checkpoint."""
    plain = weights(runner(tmp_path / 'plain'))
    runner(tmp_path / 'parts', 2, fused=False).train()
    run = runner(tmp_path / 'parts', 4, resume=True)
    for name, weight in weights(run).items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-5, atol=1e-6)
    assert all(group['fused'] for group in run.optim_wrapper.param_groups)


def test_other_values_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="channels_last='no': expected True or Fal"):
        runner(tmp_path, channels_last='no')
