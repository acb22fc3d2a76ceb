import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_gpu import HostStop
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import OptimWrapper
from torch.utils._python_dispatch import TorchDispatchMode

from mmmaskdistill.compat import deferred_scalars


class Reads(TorchDispatchMode):
    """Count how often the value of a tensor becomes a Python number."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class ReadsPerIteration(Hook):
    """Count the reads of each iteration, those of the other hooks included."""

    priority = 'LOWEST'

    def __init__(self, reads):
        self.reads = reads
        self.per_iteration = []

    def before_train_iter(self, *args, **kwargs):
        # The data loader has read its seed.
        self.reads.count = 0

    def after_train_iter(self, *args, **kwargs):
        self.per_iteration.append(self.reads.count)


class WaitingValues(Hook):
    """Count the losses that wait when a checkpoint is due."""

    priority = 'LOW'
    counts = ()

    def after_train_iter(self, runner, *args, **kwargs):
        buffer = runner.message_hub.get_scalar('train/loss')
        self.counts += (len(buffer.__dict__.get('_waiting', ())),)


@pytest.fixture
def unpatched(monkeypatch):
    """mmengine's own functions."""

    def undo():
        for owner, name in (
            (MessageHub, 'update_scalar'),
            (OptimWrapper, '_clip_grad'),
            (HistoryBuffer, '__getstate__'),
        ):
            monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
        for name in ('_log_history', '_count_history'):
            monkeypatch.delattr(HistoryBuffer, name)

    return undo


@pytest.fixture
def build(build_runner):
    """Build Runners whose optimizer reads no tensors and clips the gradients."""

    def build(name='run', **kwargs):
        return build_runner(
            name,
            **{
                'iters': 8,
                'log_interval': 4,
                'val_interval': 100,
                'optim_options': dict(
                    optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=0.1)
                ),
            }
            | kwargs,
        )

    return build


def count_reads(runner):
    with Reads() as reads:
        hook = ReadsPerIteration(reads)
        runner.register_hook(hook)
        runner.train()
    return hook.per_iteration


def test_unpatched_mmengine_reads_loss_and_norm_in_every_iteration(build, unpatched):
    unpatched()
    assert count_reads(build()) == [2] * 8


def test_nothing_is_read_between_log_intervals(build):
    # Checkpoints are due after every second iteration; a checkpoint is read as well.
    runner = build()
    runner._hooks = [h for h in runner._hooks if 'Checkpoint' not in type(h).__name__]
    assert count_reads(runner) == [0, 0, 0, 8, 0, 0, 0, 8]


def scalars(runner):
    return {
        key: buffer.data
        for key, buffer in runner.message_hub.log_scalars.items()
        if 'time' not in key
    }


def logged(runner):
    """What the visualizer has written, without the time."""
    (file,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    return [
        {k: v for k, v in json.loads(line).items() if 'time' not in k}
        for line in file.read_text().splitlines()
    ]


@pytest.mark.parametrize('log_interval', [1, 3])
@pytest.mark.parametrize('val_interval', [2, 5])
def test_histories_and_logs_equal_those_of_unpatched_mmengine(
    build, unpatched, log_interval, val_interval
):
    options = dict(
        log_interval=log_interval,
        val_interval=val_interval,
        log_processor=dict(
            by_epoch=False,
            window_size=3,
            custom_cfg=[
                dict(data_src='loss', method_name='max', log_name='m', window_size=4)
            ],
        ),
    )
    patched = build('patched', **options)
    patched.train()
    unpatched()
    original = build('original', **options)
    original.train()
    assert list(scalars(patched)) == list(scalars(original))
    assert {'train/loss', 'train/grad_norm', 'train/lr'} < set(scalars(patched))
    for key, expected in scalars(original).items():
        for values, wanted in zip(scalars(patched)[key], expected):
            assert values.dtype == wanted.dtype
            np.testing.assert_array_equal(values, wanted)
    assert logged(patched) == logged(original)
    assert len(logged(patched)) >= 8 // log_interval


def test_checkpoint_between_log_intervals_contains_numbers_only(build, unpatched):
    runner = build(log_interval=100, iters=3)
    waiting = WaitingValues()
    runner.register_hook(waiting)
    runner.train()
    assert waiting.counts == (1, 2, 1)
    unpatched()
    file = Path(runner.work_dir) / 'iter_2.pth'
    hub = torch.load(file, weights_only=True)['message_hub']
    for key in ('train/loss', 'train/grad_norm'):
        buffer = hub['log_scalars'][key]
        assert set(buffer.__dict__) == set(HistoryBuffer().__dict__)
        assert buffer._log_history.dtype == np.float64
        assert len(buffer._log_history) == len(buffer._count_history) == 2


def test_resumed_run_has_the_history_of_a_whole_run(build):
    whole = build('whole', iters=6, log_interval=100)
    whole.train()
    resumed = build(
        'resumed',
        iters=6,
        log_interval=100,
        resume=True,
        load_from=f'{whole.work_dir}/iter_4.pth',
    )
    resumed.train()
    for key, expected in scalars(whole).items():
        np.testing.assert_array_equal(scalars(resumed)[key], expected)


@pytest.fixture
def hub():
    return MessageHub('deferred_scalars')


def update(hub, *values):
    for value in values:
        hub.update_scalar('train/loss', torch.tensor(value))


def test_history_that_a_hook_holds_gets_new_values(hub):
    update(hub, 1.0)
    buffer = hub.get_scalar('train/loss')
    assert buffer.current() == 1.0
    update(hub, 2.0, 6.0)
    assert buffer.mean(2) == 4.0 and buffer.max() == 6.0 and buffer.min() == 1.0
    assert buffer.statistics('current') == 6.0
    assert buffer.data[0].tolist() == [1.0, 2.0, 6.0]
    assert buffer.data[1].tolist() == [1, 1, 1]


def test_numbers_and_tensors_keep_their_order(hub):
    update(hub, 1.0)
    hub.update_scalar('train/loss', 2.0, count=3)
    update(hub, 3.0)
    hub.update_scalars({'train/loss': dict(value=torch.tensor([[4.0]]), count=2)})
    log, count = hub.get_scalar('train/loss').data
    assert log.tolist() == [1.0, 2.0, 3.0, 4.0] and count.tolist() == [1, 3, 1, 2]


def test_value_is_that_of_the_update(hub):
    """A tensor that changes later does not change the history."""
    loss = torch.ones((), requires_grad=True) * 2
    hub.update_scalar('train/loss', loss)
    with torch.no_grad():
        loss.zero_()
    buffer = hub.get_scalar('train/loss')
    # The graph of the loss is not kept.
    assert not buffer.__dict__['_waiting'][0][0].requires_grad
    assert buffer.current() == 2.0


@pytest.mark.parametrize('value', [2, 2.5, True])
def test_history_has_the_type_of_its_values(hub, value, unpatched):
    update(hub, value)
    log, count = hub.get_scalar('train/loss').data
    unpatched()
    other = MessageHub('unpatched')
    update(other, value)
    wanted, wanted_count = other.get_scalar('train/loss').data
    assert (log, count) == (wanted, wanted_count)
    assert (log.dtype, count.dtype) == (wanted.dtype, wanted_count.dtype)


@pytest.mark.parametrize(
    'duplicate', [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))]
)
def test_copies_of_a_history_are_independent(hub, duplicate):
    update(hub, 1.0, 2.0)
    buffer = hub.get_scalar('train/loss')
    twin = duplicate(buffer)
    update(hub, 3.0)
    assert twin.data[0].tolist() == [1.0, 2.0]
    assert buffer.data[0].tolist() == [1.0, 2.0, 3.0]


def test_number_of_waiting_values_is_limited(hub, monkeypatch):
    monkeypatch.setattr(deferred_scalars, 'MOST_WAITING', 3)
    update(hub, *range(5))
    buffer = hub.get_scalar('train/loss')
    assert len(buffer.__dict__['_waiting']) == 2
    assert buffer.data[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('start', [(), (7.0,)])
def test_length_of_the_history_is_limited_as_before(hub, start):
    start = HistoryBuffer(start, [1] * len(start), max_length=3)
    hub._log_scalars['train/loss'] = start
    update(hub, 1.0, 2.0, 3.0, 4.0)
    assert hub.get_scalar('train/loss').data[0].tolist() == [2.0, 3.0, 4.0]


def test_assigned_history_replaces_the_waiting_values(hub):
    update(hub, 1.0, 2.0)
    buffer = hub.get_scalar('train/loss')
    buffer._log_history = np.array([5.0])
    buffer._count_history = np.array([1])
    assert buffer.data[0].tolist() == [5.0]


def test_wrong_values_are_refused_as_before(hub):
    with pytest.raises(AssertionError):
        update(hub, [1.0, 2.0])
    update(hub, 1.0)
    with pytest.raises(AssertionError, match='used to be True'):
        hub.update_scalar('train/loss', torch.tensor(1.0), resumed=False)


@pytest.fixture
def clip_on_gpu(fake_gpu):
    """Clip gradients on a GPU without values, and log their norm and a loss."""

    def clip():
        with fake_gpu:
            weight = torch.nn.Parameter(torch.ones(3, device='cuda:0'))
            weight.grad = torch.ones(3, device='cuda:0')
            optim_wrapper = OptimWrapper(
                torch.optim.SGD([weight], lr=0.1), clip_grad=dict(max_norm=0.1)
            )
            optim_wrapper.message_hub = MessageHub('gpu')
            optim_wrapper._clip_grad()
            optim_wrapper.message_hub.update_scalar('train/loss', weight.sum())
        return optim_wrapper.message_hub

    return clip


def test_host_does_not_wait_for_the_gpu(clip_on_gpu):
    assert set(clip_on_gpu().log_scalars) == {'train/grad_norm', 'train/loss'}


@pytest.mark.parametrize('owner', [OptimWrapper, MessageHub])
def test_host_waits_for_the_gpu_in_unpatched_mmengine(clip_on_gpu, owner, monkeypatch):
    name = dict(OptimWrapper='_clip_grad', MessageHub='update_scalar')[owner.__name__]
    monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    with pytest.raises(HostStop, match='mmengine/'):
        clip_on_gpu()


def test_clipping_by_value_has_no_norm(build):
    clip_grad = dict(type='value', clip_value=0.1)
    runner = build(
        iters=1,
        optim_options=dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=clip_grad),
    )
    runner.train()
    assert 'train/grad_value' not in runner.message_hub.log_scalars
