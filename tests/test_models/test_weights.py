import argparse
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors.torch import save_file

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import resize_relative_position_table
from mmmaskdistill.models.weights import load_backbone, read_state_dict

ARCH = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)
TABLE = 'relative_position_bias_table'


@pytest.fixture(scope='module')
def student():
    torch.manual_seed(0)
    vit = MaskDistillViT(ARCH, img_size=64)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter)
    return vit


@pytest.fixture
def pretrained(student, tmp_path):
    path = tmp_path / 'pretrained.pth'
    state = {f'backbone.{k}': v for k, v in student.state_dict().items()}
    state['head.weight'] = torch.zeros(3, 48)
    torch.save(dict(state_dict=state, meta=dict(iter=7)), path)
    return str(path)


@pytest.fixture
def log(caplog):
    """A function that returns the lines logged so far."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [
        line for record in caplog.records for line in record.message.split('\n')
    ]
    logger.removeHandler(caplog.handler)


def downstream(**kwargs):
    return MaskDistillViT(
        **{
            'arch': ARCH,
            'img_size': 64,
            'use_rel_pos_bias': True,
            'use_shared_rel_pos_bias': False,
            'final_norm': False,
            **kwargs,
        }
    )


def test_shared_table_is_copied_to_every_block(student, pretrained):
    vit = downstream(init_cfg=dict(type='Pretrained', checkpoint=pretrained))
    vit.init_weights()
    shared = student.rel_pos_bias.relative_position_bias_table
    for block in vit.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, shared)
    tables = {b.attn.relative_position_bias_table.data_ptr() for b in vit.blocks}
    assert len(tables) == 3
    images = torch.randn(1, 3, 64, 64)
    student.norm, norm = torch.nn.Identity(), student.norm
    torch.testing.assert_close(vit(images), student(images))
    student.norm = norm


def test_tables_are_resized_to_the_models_window(student, pretrained):
    vit = downstream(img_size=(128, 96))
    report = load_backbone(vit, pretrained)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 6)
    )
    assert torch.equal(vit.blocks[2].attn.relative_position_bias_table, expected)
    assert any('resized' in line for line in report)
    assert any('expanded' in line for line in report)


def test_table_for_14_pixel_patches_is_resized_to_512_pixels(tmp_path):
    """512 pixels have 37 x 37 patches; the last row and column are padded."""
    student = MaskDistillViT(ARCH, patch_size=14)
    torch.save(student.state_dict(), tmp_path / 'a.pth')
    vit = downstream(img_size=512, patch_size=14)
    report = load_backbone(vit, str(tmp_path / 'a.pth'))
    assert (
        'resized 3 relative position tables from the window (16, 16) to (37, 37)'
    ) in report
    with torch.no_grad():
        assert vit(torch.zeros(1, 3, 512, 512))[0].shape == (1, 48, 37, 37)


def test_load_state_dict_resizes_tables_too(student, pretrained):
    """``load_from``, which uses mmengine's loader, therefore works as well."""
    from mmengine.runner import load_checkpoint

    model = torch.nn.Module()
    model.backbone = downstream(img_size=128)
    load_checkpoint(model, pretrained, strict=False)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 8)
    )
    table = model.backbone.blocks[0].attn.relative_position_bias_table
    assert torch.equal(table, expected)


def test_prefix_may_omit_its_final_dot(pretrained):
    with_dot = load_backbone(downstream(), pretrained, prefix='backbone.')
    assert load_backbone(downstream(), pretrained, 'backbone') == with_dot


def test_report_names_unmatched_and_unused_tensors(student, pretrained):
    report = load_backbone(downstream(out_type='avg_featmap'), pretrained)
    assert 'tensors matched' in report[0]
    assert any('left as initialized: fc_norm' in line for line in report)
    assert 'not used: norm, 2 tensors (the backbone has final_norm=False)' in report


@pytest.mark.parametrize(
    'arch, message',
    [
        ({**ARCH, 'num_layers': 4}, r'missing from the checkpoint \(blocks.3'),
        ({**ARCH, 'embed_dims': 96}, 'of another shape'),
    ],
)
def test_another_architecture_is_refused(pretrained, arch, message):
    vit = MaskDistillViT(arch, img_size=64)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(vit, pretrained)


def test_file_without_a_vit_is_refused(tmp_path):
    torch.save(dict(conv1=torch.zeros(1)), tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match='the first keys are conv1'):
        load_backbone(downstream(), str(tmp_path / 'resnet.pth'))


def test_missing_file_is_named():
    with pytest.raises(CheckpointError, match="'nowhere.pth' does not exist"):
        read_state_dict('nowhere.pth')


def test_position_embedding_is_resized():
    vit = MaskDistillViT(ARCH, img_size=64, use_abs_pos_emb=True)
    torch.nn.init.normal_(vit.pos_embed)
    larger = MaskDistillViT(ARCH, img_size=128, use_abs_pos_emb=True)
    larger.load_state_dict(vit.state_dict())
    grid = vit.pos_embed[:, 1:].transpose(1, 2).reshape(1, 48, 4, 4)
    expected = (
        torch.nn.functional.interpolate(grid, (8, 8), mode='bicubic')
        .flatten(2)
        .transpose(1, 2)
    )
    torch.testing.assert_close(larger.pos_embed[:, 1:], expected)
    assert torch.equal(larger.pos_embed[:, 0], vit.pos_embed[:, 0])


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
        read = read_state_dict(str(tmp_path / name))
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
    read = read_state_dict(str(tmp_path / 'a.pt'))
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
        read_state_dict(str(tmp_path / 'a.pt'))
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
        read_state_dict(str(tmp_path / 'evil.pth'))
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


@pytest.mark.parametrize(
    'write, message',
    [
        (truncated, 'cannot be read'),
        (
            lambda path, _: path.write_text('<html>404</html>'),
            r'cannot be read \(Unsupported operand',
        ),
        (lambda path, _: path.write_bytes(b''), 'cannot be read'),
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
    if suffix == '.safetensors':
        message = 'cannot be read'
    with pytest.raises(CheckpointError, match=message) as error:
        read_state_dict(str(path))
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
        read = read_state_dict(address)
        assert all(torch.equal(read[k], state[k]) for k in state)
        file.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match='404'):
        read_state_dict(address.replace('/a.', '/b.'))
    server.shutdown()
    server.server_close()


def test_load_from_reads_safetensors(student, tmp_path):
    from mmengine.runner import load_checkpoint

    save_file(student.state_dict(), tmp_path / 'a.safetensors')
    vit = MaskDistillViT(ARCH, img_size=64)
    load_checkpoint(vit, str(tmp_path / 'a.safetensors'), strict=True)
    for key, tensor in vit.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[key])


def test_init_cfg_may_be_a_list_and_have_a_map_location(student, pretrained):
    vit = downstream(
        out_type='avg_featmap',
        init_cfg=[
            dict(type='Pretrained', checkpoint=pretrained, map_location='cpu'),
            dict(type='Constant', layer='LayerNorm', val=3.0),
        ],
    )
    vit.init_weights()
    assert (vit.fc_norm.weight == 3).all()
    assert torch.equal(vit.blocks[1].norm1.weight, student.blocks[1].norm1.weight)


def test_init_cfg_has_priority_over_pretrained(student, pretrained, log):
    vit = downstream(
        pretrained='nowhere.pth',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    )
    vit.init_weights()
    assert torch.equal(vit.cls_token, student.cls_token)
    assert any("pretrained='nowhere.pth' is not used" in line for line in log())
    vit = downstream(pretrained=pretrained)
    vit.init_weights()
    assert torch.equal(vit.cls_token, student.cls_token)


def test_windows_that_are_not_square_load_only_unchanged(tmp_path):
    wide = MaskDistillViT(ARCH, img_size=(32, 64), use_abs_pos_emb=True)
    torch.nn.init.normal_(wide.rel_pos_bias.relative_position_bias_table)
    path = str(tmp_path / 'wide.pth')
    torch.save(wide.state_dict(), path)
    same = MaskDistillViT(ARCH, img_size=(32, 64), use_abs_pos_emb=True)
    load_backbone(same, path)
    for key, tensor in same.state_dict().items():
        assert torch.equal(tensor, wide.state_dict()[key])
    other = MaskDistillViT(ARCH, img_size=64)
    with pytest.raises(CheckpointError, match='21 patches or.* img_size'):
        other.load_state_dict(wide.state_dict())
    state = {'pos_embed': wide.pos_embed}
    other = MaskDistillViT(ARCH, img_size=64, use_abs_pos_emb=True)
    with pytest.raises(CheckpointError, match='pos_embed is for 8 patches'):
        other.load_state_dict(state, strict=False)


def test_changes_made_by_loading_are_logged_once(student, log):
    vit = downstream(img_size=128)
    for _ in range(2):
        vit.load_state_dict(student.state_dict(), strict=False)
    lines = log()
    assert sum('expanded rel_pos_bias' in line for line in lines) == 1
    assert sum('resized 3 relative' in line for line in lines) == 1
    vit.load_state_dict(vit.state_dict())
    assert log() == lines
