import builtins
import os
import signal
from types import FunctionType

import pytest
from mmengine.fileio import LocalBackend, dump
from mmengine.hooks import checkpoint_hook

from mmmaskdistill.compat import atomic_files


def killed_during(write) -> bool:
    """Run ``write`` in a process that is killed before the file is complete.

    Returns:
        bool: Whether the process was killed.
    """
    pid = os.fork()
    if pid == 0:
        os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
        write()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.fixture
def file(tmp_path):
    file = tmp_path / 'iter_1.pth'
    LocalBackend().put(b'old', file)
    return file


def test_unpatched_mmengine_leaves_an_incomplete_file(file):
    put = FunctionType(
        LocalBackend.put.__code__,
        {**LocalBackend.put.__globals__, 'open': builtins.open},
    )
    with pytest.raises(TypeError):
        put(LocalBackend(), 'text, not bytes', file)
    assert file.read_bytes() == b''


def test_killed_write_keeps_the_old_file(file):
    assert killed_during(lambda: LocalBackend().put(b'new', file))
    assert file.read_bytes() == b'old'
    assert not [
        name
        for name in os.listdir(file.parent)
        if name.endswith('.pth') and name != file.name
    ]

    LocalBackend().put(b'new', file)
    assert file.read_bytes() == b'new'
    assert os.listdir(file.parent) == [file.name]


def test_killed_write_keeps_the_old_last_checkpoint(tmp_path):
    file = tmp_path / 'last_checkpoint'
    file.write_text('old')

    def write():
        with checkpoint_hook.open(file, 'w') as f:
            f.write('new')

    assert killed_during(write)
    assert file.read_text() == 'old'
    write()
    assert file.read_text() == 'new'


def test_failed_write_keeps_the_old_file_and_adds_none(file):
    with pytest.raises(TypeError):
        LocalBackend().put('text, not bytes', file)
    assert file.read_bytes() == b'old'
    assert os.listdir(file.parent) == [file.name]


def test_text_is_encoded_and_missing_folders_are_made(tmp_path):
    file = tmp_path / 'a' / 'b.txt'
    LocalBackend().put_text('käse', file, encoding='latin-1')
    assert file.read_bytes() == 'käse'.encode('latin-1')
    dump(dict(a=1), tmp_path / 'c.json')
    assert (tmp_path / 'c.json').read_text() == '{"a": 1}'


def test_file_permissions_equal_those_of_open(file):
    (file.parent / 'plain').write_bytes(b'')
    assert file.stat().st_mode == (file.parent / 'plain').stat().st_mode


def test_writing_through_a_symbolic_link_keeps_the_link(file):
    link = file.parent / 'latest.pth'
    link.symlink_to(file)
    LocalBackend().put(b'new', link)
    assert link.is_symlink()
    assert file.read_bytes() == b'new'


def test_writing_to_a_device_keeps_the_device():
    LocalBackend().put(b'new', os.devnull)
    assert not os.path.isfile(os.devnull)


def test_reading_and_appending_work_as_with_open(file):
    assert LocalBackend().get(file) == b'old'
    with atomic_files.open_atomically(file, 'ab') as f:
        f.write(b' and more')
    assert file.read_bytes() == b'old and more'
