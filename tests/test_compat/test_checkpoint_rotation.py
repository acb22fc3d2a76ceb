import os

import pytest
from mmengine.hooks import CheckpointHook


class Killed(Exception):
    pass


@pytest.fixture
def interrupted(build_runner, monkeypatch):
    """A run that keeps one checkpoint and ends while it writes the second."""
    runner = build_runner(keep=1, iters=4)
    save = runner.save_checkpoint

    def save_the_first(out_dir, filename, *args, **kwargs):
        if filename == 'iter_4.pth':
            raise Killed
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', save_the_first)
    return runner


def checkpoints(runner):
    return sorted(f for f in os.listdir(runner.work_dir) if f.startswith('iter_'))


def test_mmengine_alone_leaves_none(interrupted, monkeypatch):
    monkeypatch.setattr(
        CheckpointHook,
        '_save_checkpoint_with_step',
        CheckpointHook._save_checkpoint_with_step.__wrapped__,
    )
    with pytest.raises(Killed):
        interrupted.train()
    assert checkpoints(interrupted) == []


def test_the_first_is_still_there(interrupted):
    with pytest.raises(Killed):
        interrupted.train()
    assert checkpoints(interrupted) == ['iter_2.pth']
    with open(os.path.join(interrupted.work_dir, 'last_checkpoint')) as file:
        assert os.path.isfile(file.read())


@pytest.mark.parametrize(
    'keep, kept',
    [
        (1, ['iter_6.pth']),
        (2, ['iter_4.pth', 'iter_6.pth']),
        (-1, ['iter_2.pth', 'iter_4.pth', 'iter_6.pth']),
    ],
)
def test_as_many_are_kept_as_asked(build_runner, keep, kept):
    runner = build_runner(keep=keep, iters=6)
    runner.train()
    assert checkpoints(runner) == kept
