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


class RunsCode:
    """An object that runs code (it makes a folder) when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


class AsksForAttribute:
    """An object that is unpickled by a call of ``getattr``."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.fixture
def no_safe_globals():
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(allowed)


@pytest.fixture
def checkpoint_file(build_runner):
    runner = build_runner()
    runner.train()
    return os.path.join(runner.work_dir, 'iter_4.pth')


def test_unpatched_torch_refuses_mmengine_checkpoints(checkpoint_file, no_safe_globals):
    with pytest.raises(UnpicklingError, match='HistoryBuffer'):
        torch.load(checkpoint_file)


def test_resumed_run_has_the_weights_and_log_of_a_whole_run(
    build_runner, checkpoint_file
):
    whole = build_runner('whole', iters=6)
    whole.train()
    resumed = build_runner('resumed', iters=6, resume=True, load_from=checkpoint_file)
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    losses = resumed.message_hub.get_scalar('train/loss')
    assert len(losses._log_history) == 6
    assert losses.mean() == whole.message_hub.get_scalar('train/loss').mean()


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
def test_types_in_mmengine_checkpoints_load(tmp_path, value):
    file = tmp_path / 'checkpoint.pth'
    torch.save(dict(meta=value), file)
    loaded = CheckpointLoader.load_checkpoint(str(file), 'cpu')['meta']
    assert type(loaded) is type(value)
    np.testing.assert_equal(loaded, value)


@pytest.mark.parametrize('core', ['core', '_core'])
def test_scalars_written_by_numpy_1_and_2_load(tmp_path, core):
    file = tmp_path / 'checkpoint.pth'
    torch.save(dict(score=np.float64(0.5)), file, _use_new_zipfile_serialization=False)
    here = np.float64(0.5).__reduce__()[0].__module__.encode()
    there = f'numpy.{core}.multiarray'.encode()
    content = file.read_bytes()
    assert here in content
    file.write_bytes(content.replace(here, there))
    assert torch.load(file)['score'] == 0.5


def test_checkpoint_that_runs_code_is_refused(tmp_path):
    file, trace = tmp_path / 'harmful.pth', tmp_path / 'trace'
    torch.save(dict(state_dict=RunsCode(trace)), file)
    with pytest.raises(UnpicklingError):
        CheckpointLoader.load_checkpoint(str(file), 'cpu')
    assert not trace.exists()


def test_downloaded_checkpoint_that_runs_code_is_refused(tmp_path):
    file, trace = tmp_path / 'harmful.pth', tmp_path / 'trace'
    torch.save(dict(state_dict=RunsCode(trace)), file)
    with pytest.raises(UnpicklingError):
        checkpoint.load_url(file.as_uri(), model_dir=str(tmp_path / 'cache'))
    assert not trace.exists()
    # The same file does run its code with the default of torch's load_url.
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
def test_getattr_in_a_file_reaches_no_other_attribute(tmp_path, owner, name):
    file = tmp_path / 'checkpoint.pth'
    torch.save(dict(meta=AsksForAttribute(owner, name)), file)
    with pytest.raises(UnpicklingError, match=name):
        CheckpointLoader.load_checkpoint(str(file), 'cpu')


def test_getattr_itself_is_not_allowed():
    allowed = torch.serialization.get_safe_globals()
    assert getattr not in allowed
    assert (safe_loading.getattr_of_history_buffer, 'builtins.getattr') in allowed
