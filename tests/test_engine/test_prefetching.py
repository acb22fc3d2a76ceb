"""Prefetched batches arrive in order, on the device, and change no number of a run.

The GPU is a fake one, and its streams only record what is done with them.
"""

from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny
from helpers.rates import make_runner
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mmmaskdistill.engine import prefetching
from mmmaskdistill.engine.prefetching import prefetched
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import TwoViewDataPreprocessor

STATS = dict(mean=[1.0] * 3, std=[2.0] * 3, second_mean=[3.0] * 3, second_std=[4.0] * 3)


class Stream:
    """A CUDA stream that records what waits for it."""

    def __init__(self, name, events):
        self.name, self.events = name, events

    def wait_stream(self, other):
        self.events.append(f'{self.name} waits for {other.name}')


@pytest.fixture
def events(monkeypatch):
    """Record what is done with CUDA's streams."""
    events = []
    current = [Stream('main', events)]

    @contextmanager
    def within(stream):
        current.append(stream)
        yield
        current.pop()

    def record(tensor, stream):
        events.append(f'{stream.name} uses {tuple(tensor.shape)}')

    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: Stream('side', events))
    monkeypatch.setattr(torch.cuda, 'stream', within)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: current[-1])
    monkeypatch.setattr(torch.Tensor, 'record_stream', record)

    cast_data = BaseDataPreprocessor.cast_data

    def cast(self, data):
        if isinstance(data, torch.Tensor):
            events.append(f'{current[-1].name} copies {tuple(data.shape)}')
        return cast_data(self, data)

    monkeypatch.setattr(BaseDataPreprocessor, 'cast_data', cast)
    return events


def test_next_batch_is_copied_before_the_step_is_queued(events, fake_gpu):
    with fake_gpu as gpu:
        preprocessor = BaseDataPreprocessor().to('cuda:0')
        model = SimpleNamespace(data_preprocessor=preprocessor)
        batches = (dict(inputs=[torch.ones(k)], name='a') for k in (1, 2, 3))
        for batch in prefetched(batches, model):
            (tensor,) = batch['inputs']
            assert tensor.device.type == 'cuda' and batch['name'] == 'a'
            events.append(f'step on {tuple(tensor.shape)}')
        assert not gpu.waiting_copies
    assert preprocessor._non_blocking is False
    arrive = ['main waits for side', 'main uses ({},)']
    assert events == [
        'side copies (1,)',
        *(line.format(1) for line in arrive),
        'side copies (2,)',
        'step on (1,)',
        *(line.format(2) for line in arrive),
        'side copies (3,)',
        'step on (2,)',
        *(line.format(3) for line in arrive),
        'step on (3,)',
    ]


def test_preprocessor_finds_a_prefetched_batch_on_its_device(events, fake_gpu):
    """The indices of the hidden patches, which need masks on the CPU, are copied too.

    All tensors of the batch, also those of its samples, are marked as in use.
    """
    masks = tiny.masked()[1]
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    samples = [DataSample().set_mask(mask) for mask in masks]
    batch = dict(inputs=images, data_samples=samples)
    expected = TwoViewDataPreprocessor(**STATS)(batch)['data_samples']
    with fake_gpu as gpu:
        preprocessor = TwoViewDataPreprocessor(**STATS).to('cuda:0')
        gpu.waiting_copies.clear()
        model = SimpleNamespace(data_preprocessor=preprocessor)
        (ready,) = prefetched([batch], model)
        assert events.count('main uses (16,)') == 2  # masks
        assert events.count('main uses (7,)') == 2  # hidden patches
        assert events.count('main uses (9,)') == 2  # visible patches
        found = preprocessor(ready, True)
        assert all(view.device.type == 'cuda' for view in found['inputs'])
        for sample, wanted in zip(found['data_samples'], expected):
            for name in ('hidden', 'visible', 'mask'):
                tensor = sample.get(name)
                assert tensor.device.type == 'cuda'
                assert tensor.shape == wanted.get(name).shape
        assert not gpu.waiting_copies


class Random(Dataset):
    """Samples that are drawn when they are loaded."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.rand(1) + index)


class StopAfter(Hook):
    class Stopped(Exception):
        pass

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            raise self.Stopped


def train(work_dir, loop, stop=None, **kwargs):
    hooks = [StopAfter(stop)] if stop else []
    runner = make_runner(work_dir, dict(loop), hooks=hooks, **kwargs)
    runner._train_dataloader['dataset'] = Random()
    with suppress(StopAfter.Stopped):
        runner.train()
    return runner


@pytest.mark.parametrize(
    'loop',
    [
        dict(type='IterBasedTrainLoop', max_iters=7),
        dict(type='EpochBasedTrainLoop', max_epochs=3),
    ],
)
def test_runs_and_resumed_runs_have_the_same_numbers(
    loop, tmp_path, monkeypatch, events
):
    """Batches are read ahead as on a GPU, but stay on the CPU."""
    plain = train(tmp_path / 'plain', loop).model.state_dict()
    read = []

    def ahead(batches, model):
        read.append(0)
        return prefetching._one_ahead(batches, model.data_preprocessor)

    monkeypatch.setattr('mmmaskdistill.engine.runner.prefetched', ahead)
    options = dict(cfg=dict(prefetch=True))
    whole = train(tmp_path / 'whole', loop, **options)
    train(tmp_path / 'parts', loop, stop=5, **options)
    parts = train(tmp_path / 'parts', loop, resume=True, **options)
    assert read and whole.iter == parts.iter
    for runner in (whole, parts):
        for name, weight in runner.model.state_dict().items():
            assert torch.equal(weight, plain[name]), name


def test_on_a_cpu_no_batch_is_read_ahead():
    read = []

    def batches():
        for k in range(3):
            read.append(k)
            yield k

    model = SimpleNamespace(data_preprocessor=BaseDataPreprocessor())
    for k in prefetched(batches(), model):
        assert read == list(range(k + 1))


class OwnLoop(EpochBasedTrainLoop):
    pass


@pytest.mark.parametrize(
    'loop, value, message',
    [
        (dict(by_epoch=True, max_epochs=1), 2, 'prefetch=2: expected True or False'),
        (
            dict(type=OwnLoop, max_epochs=1),
            True,
            'is for IterBasedTrainLoop and EpochBasedTrainLoop, but train_cfg has '
            'type=OwnLoop',
        ),
    ],
)
def test_settings_that_have_no_effect_are_refused(tmp_path, loop, value, message):
    runner = make_runner(tmp_path, loop, cfg=dict(prefetch=value))
    with pytest.raises(ConfigError, match=message):
        runner.train()
