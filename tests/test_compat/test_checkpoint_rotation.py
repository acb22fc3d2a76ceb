import os

import pytest
from mmengine.hooks import CheckpointHook


class Killed(Exception):
    pass


@pytest.fixture
def interrupted_runner(build_runner, monkeypatch):
    """A runner with ``max_keep_ckpts=1`` that is killed in its second save."""
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


def test_unpatched_mmengine_leaves_no_checkpoint(interrupted_runner, monkeypatch):
    monkeypatch.setattr(
        CheckpointHook,
        '_save_checkpoint_with_step',
        CheckpointHook._save_checkpoint_with_step.__wrapped__,
    )
    with pytest.raises(Killed):
        interrupted_runner.train()
    assert checkpoints(interrupted_runner) == []


def test_old_checkpoint_stays_until_the_next_is_written(interrupted_runner):
    with pytest.raises(Killed):
        interrupted_runner.train()
    assert checkpoints(interrupted_runner) == ['iter_2.pth']
    with open(os.path.join(interrupted_runner.work_dir, 'last_checkpoint')) as file:
        assert os.path.isfile(file.read())


@pytest.mark.parametrize(
    'keep, kept',
    [
        (1, ['iter_6.pth']),
        (2, ['iter_4.pth', 'iter_6.pth']),
        (-1, ['iter_2.pth', 'iter_4.pth', 'iter_6.pth']),
    ],
)
def test_max_keep_ckpts_checkpoints_are_kept(build_runner, keep, kept):
    runner = build_runner(keep=keep, iters=6)
    runner.train()
    assert checkpoints(runner) == kept
