import os
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmmaskdistill.compat import safe_loading


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


class Attribute:
    """Is unpickled by a call of ``getattr``."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.fixture
def nothing_allowed():
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(allowed)


@pytest.fixture
def checkpoint_file(build_runner):
    runner = build_runner()
    runner.train()
    return os.path.join(runner.work_dir, 'iter_4.pth')


def test_torch_alone_refuses_what_mmengine_writes(checkpoint_file, nothing_allowed):
    with pytest.raises(UnpicklingError, match='HistoryBuffer'):
        torch.load(checkpoint_file)


def test_resume(build_runner, checkpoint_file):
    straight = build_runner('straight', iters=6)
    straight.train()
    resumed = build_runner('resumed', iters=6, resume=True, load_from=checkpoint_file)
    resumed.train()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    losses = resumed.message_hub.get_scalar('train/loss')
    assert len(losses._log_history) == 6
    assert losses.mean() == straight.message_hub.get_scalar('train/loss').mean()


@pytest.mark.parametrize(
    'value',
    [
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        np.arange(3.0),
        ConfigDict(a=dict(b=1)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_mmengine_may_write_loads(tmp_path, value):
    file = tmp_path / 'checkpoint.pth'
    torch.save(dict(meta=value), file)
    loaded = CheckpointLoader.load_checkpoint(str(file), 'cpu')['meta']
    assert type(loaded) is type(value)
    np.testing.assert_equal(loaded, value)


@pytest.mark.parametrize('core', ['core', '_core'])
def test_numpy_scalars_of_both_major_versions_load(tmp_path, core):
    file = tmp_path / 'checkpoint.pth'
    torch.save(dict(score=np.float64(0.5)), file, _use_new_zipfile_serialization=False)
    here = np.float64(0.5).__reduce__()[0].__module__.encode()
    there = f'numpy.{core}.multiarray'.encode()
    content = file.read_bytes()
    assert here in content
    file.write_bytes(content.replace(here, there))
    assert torch.load(file)['score'] == 0.5


def test_file_that_runs_code_is_refused(tmp_path):
    file, trace = tmp_path / 'harmful.pth', tmp_path / 'trace'
    torch.save(dict(state_dict=Harmful(trace)), file)
    with pytest.raises(UnpicklingError):
        CheckpointLoader.load_checkpoint(str(file), 'cpu')
    assert not trace.exists()


def test_address_of_a_file_that_runs_code_is_refused(tmp_path):
    file, trace = tmp_path / 'harmful.pth', tmp_path / 'trace'
    torch.save(dict(state_dict=Harmful(trace)), file)
    with pytest.raises(UnpicklingError):
        checkpoint.load_url(file.as_uri(), model_dir=str(tmp_path / 'cache'))
    assert not trace.exists()
    # What is guarded against: torch's own default.
    checkpoint.load_url.func(file.as_uri(), model_dir=str(tmp_path / 'cache'))
    assert trace.exists()


@pytest.mark.parametrize(
    'owner, name',
    [
        (HistoryBuffer, '__init__'),
        (np.ndarray, '__class__'),
        (np.ndarray, 'tofile'),
    ],
)
def test_other_attributes_are_refused(tmp_path, owner, name):
    file = tmp_path / 'checkpoint.pth'
    torch.save(dict(meta=Attribute(owner, name)), file)
    with pytest.raises(UnpicklingError, match=name):
        CheckpointLoader.load_checkpoint(str(file), 'cpu')


def test_getattr_itself_is_not_allowed():
    allowed = torch.serialization.get_safe_globals()
    assert getattr not in allowed
    assert (safe_loading.getattr_of_history_buffer, 'builtins.getattr') in allowed
