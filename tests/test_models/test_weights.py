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
    """The lines logged so far."""
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


def test_shared_table_becomes_one_a_block(student, pretrained):
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


def test_tables_are_resized_to_the_window(student, pretrained):
    vit = downstream(img_size=(128, 96))
    report = load_backbone(vit, pretrained)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 6)
    )
    assert torch.equal(vit.blocks[2].attn.relative_position_bias_table, expected)
    assert any('resized' in line for line in report)
    assert any('expanded' in line for line in report)


def test_patches_of_14_pixels_at_512(tmp_path):
    """37 x 37 of them, the last row and column padded."""
    student = MaskDistillViT(ARCH, patch_size=14)
    torch.save(student.state_dict(), tmp_path / 'a.pth')
    vit = downstream(img_size=512, patch_size=14)
    report = load_backbone(vit, str(tmp_path / 'a.pth'))
    assert (
        'resized 3 relative position tables from the window (16, 16) to (37, 37)'
    ) in report
    with torch.no_grad():
        assert vit(torch.zeros(1, 3, 512, 512))[0].shape == (1, 48, 37, 37)


def test_load_state_dict_adapts_too(student, pretrained):
    """So ``load_from`` serves as well, through mmengine's loader."""
    from mmengine.runner import load_checkpoint

    model = torch.nn.Module()
    model.backbone = downstream(img_size=128)
    load_checkpoint(model, pretrained, strict=False)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 8)
    )
    table = model.backbone.blocks[0].attn.relative_position_bias_table
    assert torch.equal(table, expected)


def test_prefix_may_lack_its_dot(pretrained):
    with_dot = load_backbone(downstream(), pretrained, prefix='backbone.')
    assert load_backbone(downstream(), pretrained, 'backbone') == with_dot


def test_report_says_what_happened(student, pretrained):
    report = load_backbone(downstream(out_type='avg_featmap'), pretrained)
    assert 'tensors matched' in report[0]
    assert any('left as initialized: fc_norm' in line for line in report)
    assert 'not used: norm, 2 tensors (the backbone has final_norm=False)' in report


@pytest.mark.parametrize(
    'arch, message',
    [
        ({**ARCH, 'num_layers': 4}, r'missing \(blocks.3'),
        ({**ARCH, 'embed_dims': 96}, 'of another shape'),
    ],
)
def test_another_architecture_is_refused(pretrained, arch, message):
    vit = MaskDistillViT(arch, img_size=64)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(vit, pretrained)


def test_a_file_without_a_vit_is_refused(tmp_path):
    torch.save(dict(conv1=torch.zeros(1)), tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match='the first are conv1'):
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


def test_file_formats(student, tmp_path):
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
    """Parameters, buffers, lists and numbers, in modules of modules."""

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
def test_torchscript_gives_its_tensors(tmp_path, compile_it):
    compiled = compile_it(Scripted()).half()
    compiled.save(tmp_path / 'a.pt')
    expected = compiled.state_dict()
    read = read_state_dict(str(tmp_path / 'a.pt'))
    assert read.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)


def test_no_code_of_torchscript_is_run(tmp_path):
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
    # What is guarded against: torch's own reader.
    torch.jit.load(tmp_path / 'a.pt')
    assert trace.exists()


class Counter:
    """Something harmless that a training script may keep in a checkpoint."""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Evil:
    ran = False

    def __reduce__(self):
        return setattr, (Evil, 'ran', True)


def test_no_code_of_a_file_is_run(tmp_path):
    torch.save(dict(model=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='it holds .*setattr'):
        read_state_dict(str(tmp_path / 'evil.pth'))
    assert not Evil.ran


def test_trust_is_asked_for(student, tmp_path, log):
    path = tmp_path / 'odd.pth'
    torch.save(dict(model=student.state_dict(), logger=Counter()), path)
    cfg = dict(type='Pretrained', checkpoint=str(path))
    vit = MaskDistillViT(ARCH, img_size=64, init_cfg=cfg)
    with pytest.raises(CheckpointError, match='holds .*Counter.*trust'):
        vit.init_weights()
    cfg['trust_checkpoint'] = True
    MaskDistillViT(ARCH, img_size=64, init_cfg=cfg).init_weights()
    assert any('may run any code' in line for line in log())


def broken(path, state):
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    'write, message',
    [
        (broken, 'cannot be read'),
        (
            lambda path, _: path.write_text('<html>404</html>'),
            r'cannot be read \(Unsupported operand',
        ),
        (lambda path, _: path.write_bytes(b''), 'cannot be read'),
        (lambda path, _: torch.save([1, 2], path), 'no weights but a list'),
        (lambda path, _: torch.save(dict(model={}), path), 'no weights but a dict'),
    ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_what_is_no_checkpoint_is_named(student, tmp_path, write, message, suffix):
    path = tmp_path / f'file{suffix}'
    write(path, student.state_dict())
    if suffix == '.safetensors':
        message = 'cannot be read'
    with pytest.raises(CheckpointError, match=message) as error:
        read_state_dict(str(path))
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_address(student, tmp_path, monkeypatch, suffix):
    """Fetched once, then read from the cache."""
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


def test_init_cfg_as_a_list_and_with_map_location(student, pretrained):
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


def test_init_cfg_wins_over_pretrained(student, pretrained, log):
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


def test_windows_that_are_not_square(tmp_path):
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


def test_what_loading_changed_is_logged_once(student, log):
    vit = downstream(img_size=128)
    for _ in range(2):
        vit.load_state_dict(student.state_dict(), strict=False)
    lines = log()
    assert sum('expanded rel_pos_bias' in line for line in lines) == 1
    assert sum('resized 3 relative' in line for line in lines) == 1
    vit.load_state_dict(vit.state_dict())
    assert log() == lines
