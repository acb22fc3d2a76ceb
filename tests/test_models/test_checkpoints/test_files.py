"""Checkpoint files of all formats are read without running their code."""

import argparse
import contextlib
import gzip
import re
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from helpers import tiny
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import (
    load_backbone,
    read_weights,
    write_weights,
)

ARCH = dict(tiny.ARCH, num_layers=3)


def test_missing_file_is_named():
    with pytest.raises(CheckpointError, match="'nowhere.pth' does not exist"):
        read_weights('nowhere.pth')


def test_all_file_formats_hold_the_same_tensors(student, tmp_path):
    state = student.state_dict()
    save_file(state, tmp_path / 'a.safetensors')
    torch.save(dict(model=state), tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'a.pt', _use_new_zipfile_serialization=False)
    torch.save(
        dict(
            module={f'module.{k}': v for k, v in state.items()},
            args=argparse.Namespace(lr=1),
        ),
        tmp_path / 'a.ckpt',
    )
    for name in ('a.safetensors', 'a.pth', 'a.pt', 'a.ckpt'):
        read = read_weights(str(tmp_path / name)).tensors
        assert read.keys() == state.keys()
        assert all(torch.equal(read[k], state[k]) for k in state)


class Scripted(torch.nn.Module):
    """Nested modules with parameters, buffers, lists and numbers."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        self.scale = torch.nn.Parameter(torch.rand([]))
        self.register_buffer('count', torch.tensor([7, 8]))
        self.register_buffer('none', torch.zeros(0, 4))
        self.sizes = [1, 2]

    def forward(self, x):
        return self.body(x) * self.scale


@pytest.mark.parametrize(
    'compile_it',
    [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(1, 2))],
    ids=['script', 'trace'],
)
def test_torchscript_archive_holds_its_tensors(tmp_path, compile_it):
    compiled = compile_it(Scripted()).half()
    compiled.save(tmp_path / 'a.pt')
    expected = compiled.state_dict()
    read = read_weights(str(tmp_path / 'a.pt')).tensors
    assert read.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)


def test_code_in_a_torchscript_archive_is_not_run(tmp_path):
    class Writes(torch.nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path: str = path
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self) -> tuple[str, torch.Tensor]:
            return self.path, self.weight

        @torch.jit.export
        def __setstate__(self, state: tuple[str, torch.Tensor]):
            self.path, self.weight = state
            self.training = False
            torch.save(state[1], self.path)

    trace = tmp_path / 'trace'
    torch.jit.script(Writes(str(trace))).save(tmp_path / 'a.pt')
    with pytest.raises(CheckpointError, match='cannot be read'):
        read_weights(str(tmp_path / 'a.pt'))
    assert not trace.exists()
    # The same file does run its code when torch's own reader opens it.
    torch.jit.load(tmp_path / 'a.pt')
    assert trace.exists()


class Counter:
    """A harmless object that a training script may store in a checkpoint."""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class RunsCode:
    ran = False

    def __reduce__(self):
        return setattr, (RunsCode, 'ran', True)


def test_code_in_a_pickle_is_not_run(tmp_path):
    torch.save(dict(model=RunsCode()), tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='it holds .*setattr'):
        read_weights(str(tmp_path / 'evil.pth'))
    assert not RunsCode.ran


def test_pickled_objects_need_trust_checkpoint(student, tmp_path, log):
    path = tmp_path / 'odd.pth'
    torch.save(dict(model=student.state_dict(), logger=Counter()), path)
    cfg = dict(type='Pretrained', checkpoint=str(path))
    vit = MaskDistillViT(ARCH, img_size=64, init_cfg=cfg)
    with pytest.raises(CheckpointError, match='holds .*Counter.*trust'):
        vit.init_weights()
    cfg['trust_checkpoint'] = True
    MaskDistillViT(ARCH, img_size=64, init_cfg=cfg).init_weights()
    assert any('may run any code' in line for line in log())


def truncated(path, state):
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def zipped(path, name):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(name, 'a')


def tarred(path):
    with tarfile.open(path, 'w') as archive:
        archive.add(__file__, 'model.pth')


@pytest.mark.parametrize(
    'write, message',
    [
        (truncated, 'cannot be read'),
        (lambda path, _: path.write_text('<html>404</html>'), 'a web page or XML'),
        (lambda path, _: path.write_text('{"error": 404}'), 'JSON text, which is what'),
        (lambda path, _: path.write_bytes(b''), 'an empty file'),
        (
            lambda path, _: path.write_text(
                'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n'
            ),
            'a pointer of Git LFS .* Run git lfs pull',
        ),
        (lambda path, _: path.write_bytes(gzip.compress(b'a')), 'a gzip archive: unp'),
        (lambda path, _: path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(50)), 'an HDF5'),
        (lambda path, _: zipped(path, 'model.pth'), 'a zip archive: unpack it'),
        (lambda path, _: zipped(path, 'a.npy'), r'a NumPy archive \(.npz\), which'),
        (lambda path, _: zipped(path, 'model.weights.h5'), 'a file of Keras, which'),
        (lambda path, _: tarred(path), 'a tar archive: unpack it'),
        (lambda path, _: torch.save([1, 2], path), 'no weights, only a list'),
        (lambda path, _: torch.save(dict(model={}), path), 'no weights, only a dict'),
    ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_files_that_are_no_checkpoints_are_named(
    student, tmp_path, write, message, suffix
):
    path = tmp_path / f'file{suffix}'
    write(path, student.state_dict())
    if suffix == '.safetensors' and message.startswith(('no weights', 'cannot')):
        message = 'cannot be read'
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(str(path))
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_checkpoint_url_is_downloaded_once(student, tmp_path, monkeypatch, suffix):
    """The file is downloaded once and then read from the cache."""
    state = student.state_dict()
    served = tmp_path / 'served'
    served.mkdir()
    file = served / f'a{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(state, file)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    handler = partial(QuietHandler, directory=served)
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}/{file.name}'
    for _ in range(2):
        read = read_weights(address).tensors
        assert all(torch.equal(read[k], state[k]) for k in state)
        file.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match='404'):
        read_weights(address.replace('/a.', '/b.'))
    server.shutdown()
    server.server_close()


def test_load_from_reads_safetensors(student, tmp_path):
    from mmengine.runner import load_checkpoint

    save_file(student.state_dict(), tmp_path / 'a.safetensors')
    vit = MaskDistillViT(ARCH, img_size=64)
    load_checkpoint(vit, str(tmp_path / 'a.safetensors'), strict=True)
    for key, tensor in vit.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[key])


def test_safetensors_are_moved_to_the_device_that_mmengine_asks_for(student, tmp_path):
    path = str(tmp_path / 'a.safetensors')
    save_file(student.state_dict(), path)
    for device in ('meta', torch.device('meta')):
        content = CheckpointLoader.load_checkpoint(path, device)
        assert content['cls_token'].device.type == 'meta'
    assert CheckpointLoader.load_checkpoint(path)['cls_token'].device.type == 'cpu'
    assert read_weights(path, 'meta').tensors['cls_token'].device.type == 'meta'


def test_trust_reaches_files_in_a_storage(student, tmp_path):
    @register_backend('shelf', prefixes='shelf', force=True)
    class Shelf(LocalBackend):
        @contextlib.contextmanager
        def get_local_path(self, filepath):
            yield tmp_path / filepath.removeprefix('shelf://')

    state = student.state_dict()
    torch.save(dict(model=state, logger=Counter()), tmp_path / 'odd.pth')
    save_file(state, tmp_path / 'a.safetensors')
    with pytest.raises(CheckpointError, match='holds .*Counter.*trust'):
        read_weights('shelf://odd.pth')
    for tensors in (
        read_weights('shelf://odd.pth', trust_checkpoint=True).tensors,
        read_weights('shelf://a.safetensors').tensors,
    ):
        assert torch.equal(tensors['cls_token'], state['cls_token'])


def test_trust_that_has_no_effect_is_refused():
    with pytest.raises(
        CheckpointError, match='no effect on .* torchvision://.*Download'
    ):
        read_weights('torchvision://resnet50', trust_checkpoint=True)


def test_keys_that_are_no_names_are_named(tmp_path):
    torch.save(dict(model={7: torch.zeros(1)}), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'a.pth.* the key 7, .* not a int'):
        read_weights(str(tmp_path / 'a.pth'))


def test_student_and_teacher_keep_their_places(tmp_path):
    """DINO and iBOT write them next to each other."""
    content = dict(
        student={'module.a': torch.zeros(1)},
        teacher={'a': torch.ones(1)},
        loss={'center': torch.ones(2)},
        epoch=3,
    )
    torch.save(content, tmp_path / 'a.pth')
    tensors = read_weights(str(tmp_path / 'a.pth')).tensors
    assert tensors == {'student.module.a': torch.zeros(1), 'teacher.a': torch.ones(1)}


def test_marks_of_wrapped_modules_are_removed_from_names(tmp_path):
    names = (
        '_orig_mod.a',
        'module._orig_mod.blocks.0._orig_mod.b',
        '_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.b',
        'blocks.0._checkpoint_wrapped_module.b',
    )
    for name, plain in zip(names, ('a', *['blocks.0.b'] * 3)):
        torch.save({name: torch.zeros(1)}, tmp_path / 'a.pth')
        assert read_weights(str(tmp_path / 'a.pth')).tensors.keys() == {plain}


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch, name):
    path = str(tmp_path / name)
    write_weights({'a': torch.zeros(1)}, path)
    monkeypatch.setattr('os.fsync', lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_weights({'a': torch.ones(1)}, path)
    assert read_weights(path).tensors == {'a': torch.zeros(1)}
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_last_checkpoint_stands_for_the_latest_of_a_run(student, tmp_path):
    run = tmp_path / 'pretrain'
    run.mkdir()
    pointer = run / 'last_checkpoint'
    with pytest.raises(CheckpointError, match='yet: run that training first, or start'):
        read_weights(str(pointer))
    config = tmp_path / 'pretrain.py'
    config.touch()
    message = f"'{run}' yet: run python tools/train.py {config} first, or start from"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_weights(str(pointer))
    torch.save(student.state_dict(), run / 'epoch_2.pth')
    # The run was moved, so the path that mmengine wrote is not there any more.
    pointer.write_text('/elsewhere/epoch_2.pth')
    assert read_weights(str(pointer)).tensors.keys() == student.state_dict().keys()
    lines = load_backbone(student, str(pointer))
    assert lines[0].startswith(f'backbone from {run}/epoch_2.pth')
    pointer.unlink()  # killed before it was written
    assert read_weights(str(pointer)).tensors


def test_copied_work_dir_stands_for_its_own_checkpoint(tmp_path):
    first, copy = tmp_path / 'first', tmp_path / 'copy'
    for folder, value in ((first, 1.0), (copy, 2.0)):
        folder.mkdir()
        torch.save(dict(a=torch.full([1], value)), folder / 'iter_8.pth')
        (folder / 'last_checkpoint').write_text(str(first / 'iter_8.pth'))
    assert read_weights(str(copy)).tensors == dict(a=torch.full([1], 2.0))
    # Runs may also keep their checkpoints elsewhere.
    (copy / 'iter_8.pth').unlink()
    assert read_weights(str(copy)).tensors == dict(a=torch.ones(1))


def test_folder_stands_for_the_checkpoint_in_it(student, tmp_path):
    def lines():
        return load_backbone(student, str(tmp_path))[0]

    with pytest.raises(CheckpointError, match='no checkpoint: expected model.safeten'):
        lines()
    torch.save(student.state_dict(), tmp_path / 'best_mIoU_iter_4.pth')
    assert f'from {tmp_path}/best_mIoU_iter_4.pth' in lines()
    torch.save(student.state_dict(), tmp_path / 'iter_8.pth')
    assert f'from {tmp_path}/iter_8.pth' in lines()
    save_file(student.state_dict(), tmp_path / 'model.safetensors')
    assert f'from {tmp_path}/model.safetensors' in lines()


@pytest.mark.parametrize('name', ['a.bin', 'a.pth', 'a'])
def test_safetensors_are_known_by_their_content(tmp_path, name):
    save_file({'a': torch.ones(2)}, tmp_path / name, metadata={'format': 'pt'})
    assert torch.equal(read_weights(str(tmp_path / name)).tensors['a'], torch.ones(2))
