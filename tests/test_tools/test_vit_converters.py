"""A MaskDistillViT is exported to timm, transformers and files, and read back."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from helpers import tiny
from helpers.small_disk import largest_file
from safetensors.torch import load_file

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import load_backbone, read_weights

TOOLS = Path(__file__).parents[2] / 'tools/model_converters'
ARCH = dict(tiny.ARCH, num_layers=3)
# Every block has its own table of relative position biases.
TABLE_PER_BLOCK = dict(use_rel_pos_bias=True, use_shared_rel_pos_bias=False)
KINDS = {
    'student': {},
    'taps': dict(final_norm=False, **TABLE_PER_BLOCK),
    'classifier': dict(out_type='avg_featmap', final_norm=False, **TABLE_PER_BLOCK),
    'position embedding': dict(use_abs_pos_emb=True, **TABLE_PER_BLOCK),
    'no layer scale': dict(layer_scale_init_value=0),
}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def run(monkeypatch, capsys):

    def run_tool(name, *arguments):
        arguments = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, 'argv', [name, *arguments])
        runpy.run_path(str(TOOLS / name), run_name='__main__')
        return capsys.readouterr().out

    return run_tool


def build(kind, **options):
    vit = MaskDistillViT(
        ARCH, **{'img_size': 64, 'out_type': 'raw', **KINDS[kind], **options}
    )
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit.eval()


def save(vit, path, kind):
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    if kind == 'classifier':
        state['head.fc.weight'] = torch.randn(5, 24)
        state['head.fc.bias'] = torch.randn(5)
    else:  # The head of a pre-trained model is no classifier.
        state['head.weight'] = torch.randn(24, 24)
        state['head.bias'] = torch.randn(24)
    torch.save(
        dict(
            state_dict=state,
            optimizer=dict(state={0: torch.zeros(9)}),
            message_hub=dict(),
            meta=dict(cfg='a = 1', seed=2, dataset_meta=dict(classes=['a', 'b'])),
        ),
        path,
    )
    return state


def assert_close(output, expected):
    scale = expected.abs().max().item()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5 * scale)


def assert_reads_back(vit, kind, path, lacks=()):
    """Compare all tensors bit for bit, except for those the format lacks."""
    other = build(kind)
    load_backbone(other, str(path))
    for key, tensor in vit.state_dict().items():
        assert key in lacks or torch.equal(other.state_dict()[key], tensor)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_timm_computes_the_same_features(tmp_path, run, kind, suffix):
    vit = build(kind)
    state = save(vit, tmp_path / 'run.pth', kind)
    out = tmp_path / 'new' / f'vit{suffix}'
    printed = run('convert_vit.py', tmp_path / 'run.pth', out, '--to', 'timm')
    model = eval(printed[printed.index('timm.create_model') :], dict(timm=timm))
    model.eval()
    expected = vit(IMAGES)[0]
    if kind == 'classifier':
        pooled = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
        assert_close(pooled, expected)
        assert_close(
            model(IMAGES),
            torch.nn.functional.linear(
                expected, state['head.fc.weight'], state['head.fc.bias']
            ),
        )
    else:
        assert_close(model.forward_features(IMAGES), expected)
    if not KINDS[kind].get('use_rel_pos_bias'):
        # timm's BEiT has one table per block, a copy of the shared one.
        other = build(kind, **TABLE_PER_BLOCK)
        load_backbone(other, str(out))
        tables = [b.attn.relative_position_bias_table for b in other.blocks]
        for table in tables:
            assert torch.equal(table, vit.rel_pos_bias.relative_position_bias_table)
    else:
        assert_reads_back(vit, kind, out, lacks=['mask_token'])


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_transformers_computes_the_same_features(tmp_path, run, kind):
    transformers = pytest.importorskip('transformers')
    vit = build(kind)
    state = save(vit, tmp_path / 'run.pth', kind)
    out = tmp_path / 'vit'
    printed = run('convert_vit.py', tmp_path / 'run.pth', out, '--to', 'transformers')
    opened = eval(
        printed[printed.index('transformers.') :], dict(transformers=transformers)
    )
    model, info = transformers.BeitModel.from_pretrained(out, output_loading_info=True)
    model.eval()
    assert not info['missing_keys'] and not info['mismatched_keys']
    output = model(IMAGES)
    if kind == 'classifier':
        expected = vit(IMAGES)[0]
        assert_close(output.pooler_output, expected)
        assert_close(
            opened.eval()(IMAGES).logits,
            torch.nn.functional.linear(
                expected, state['head.fc.weight'], state['head.fc.bias']
            ),
        )
    else:
        assert not info['unexpected_keys']
        assert_close(output.last_hidden_state, vit(IMAGES)[0])
    assert_reads_back(vit, kind, out / 'model.safetensors')
    assert model.config.layer_norm_eps == 1e-6
    json.loads((out / 'config.json').read_text())


def test_vits_without_an_equivalent_elsewhere_are_refused(tmp_path, run):
    vit = build('classifier', final_norm=True)
    save(vit, tmp_path / 'a.pth', 'classifier')
    with pytest.raises(SystemExit, match='fine-tune with final_norm=False'):
        run('convert_vit.py', tmp_path / 'a.pth', tmp_path / 'b.pth', '--to', 'timm')
    wide = build('student', img_size=(32, 64))
    save(wide, tmp_path / 'a.pth', 'student')
    with pytest.raises(
        SystemExit, match='rows, which are those of no square patch grid, and'
    ) as error:
        run(
            'convert_vit.py', tmp_path / 'a.pth', tmp_path / 'b', '--to', 'transformers'
        )
    # The tool has no such option.
    assert 'img_size' not in str(error.value)

    other = timm.create_model('test_vit')
    torch.save(
        {k: v for k, v in other.state_dict().items() if k != 'cls_token'},
        tmp_path / 'a.pth',
    )
    with pytest.raises(SystemExit, match='no ViT like BEiT'):
        run(
            'convert_vit.py', tmp_path / 'a.pth', tmp_path / 'b', '--to', 'transformers'
        )


def test_num_heads_is_required_without_a_relative_position_table(tmp_path, run):
    vit = build('student', use_shared_rel_pos_bias=False, use_abs_pos_emb=True)
    save(vit, tmp_path / 'a.pth', 'student')
    arguments = (tmp_path / 'a.pth', tmp_path / 'b.pth', '--to', 'timm')
    with pytest.raises(SystemExit, match='give it with --num-heads'):
        run('convert_vit.py', *arguments)
    printed = run('convert_vit.py', *arguments, '--num-heads', '3')
    model = eval(printed[printed.index('timm.create_model') :], dict(timm=timm))
    assert_close(model.eval().forward_features(IMAGES), vit(IMAGES)[0])


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('backbone', [True, False])
def test_published_file_holds_weights_config_and_classes(
    tmp_path, run, suffix, backbone
):
    vit = build('student')
    state = save(vit, tmp_path / 'run.pth', 'student')
    kept = tmp_path / f'student{suffix}'
    kept.write_text('another file')
    run('publish_model.py', tmp_path / 'run.pth', kept, *['--backbone'] * backbone)
    assert kept.read_text() == 'another file'
    (published,) = tmp_path.glob(f'student-*{suffix}')
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert published.name == f'student-{digest[:8]}{suffix}'
    if suffix == '.pth':
        content = torch.load(published)
        assert content.keys() == {'state_dict', 'meta'}
        meta, tensors = content['meta'], content['state_dict']
    else:
        tensors = load_file(published)
        meta = read_weights(str(published)).meta
    assert meta == dict(cfg='a = 1', dataset_meta=dict(classes=['a', 'b']))
    expected = vit.state_dict() if backbone else state
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[k], expected[k]) for k in expected)
    assert_reads_back(vit, 'student', published)
    assert {path.name for path in tmp_path.iterdir()} == {
        'run.pth',
        kept.name,
        published.name,
    }


class Callback:
    """An object that another project stores next to its weights."""


@pytest.mark.parametrize(
    'tool, options', [('convert_vit.py', ['--to', 'timm']), ('publish_model.py', [])]
)
def test_pickled_objects_need_trust_checkpoint(tmp_path, run, tool, options):
    state = build('student').state_dict()
    torch.save(dict(model=state, callback=Callback()), tmp_path / 'a.ckpt')
    arguments = tmp_path / 'a.ckpt', tmp_path / 'b.pth', *options
    with pytest.raises(SystemExit, match='Callback.*--trust-checkpoint'):
        run(tool, *arguments)
    run(tool, *arguments, '--trust-checkpoint')
    (written,) = tmp_path.glob('b*.pth')
    written = torch.load(written)['state_dict']
    key = 'blocks.2.mlp.fc2.weight'
    assert torch.equal(written[key], state[key])


def test_publish_error_says_what_is_missing(tmp_path, run):
    torch.save(dict(conv=torch.zeros(1)), tmp_path / 'a.pth')
    with pytest.raises(SystemExit, match='no weights of a backbone'):
        run('publish_model.py', tmp_path / 'a.pth', tmp_path / 'b.pth', '--backbone')
    with pytest.raises(SystemExit, match='does not exist'):
        run('publish_model.py', tmp_path / 'c.pth', tmp_path / 'b.pth')
    with pytest.raises(SystemExit, match="'.*/b': expected NAME.pth or NAME.safet"):
        run('publish_model.py', tmp_path / 'a.pth', tmp_path / 'b')
    with pytest.raises(SystemExit, match="cannot write to '.*a.pth/b.pth': "):
        run('publish_model.py', tmp_path / 'a.pth', tmp_path / 'a.pth/b.pth')
    torch.save(dict(conv=torch.zeros(9999)), tmp_path / 'a.pth')
    for name in ('c.pth', 'c.safetensors'):
        with (
            largest_file(4096),
            pytest.raises(SystemExit, match="cannot write to '.*/c.*: File too large"),
        ):
            run('publish_model.py', tmp_path / 'a.pth', tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_work_dir_stands_for_its_latest_checkpoint(tmp_path, run):
    run_dir = tmp_path / 'run'
    run_dir.mkdir()
    for number in (1, 2):
        weights = dict(conv=torch.full([1], float(number)))
        torch.save(dict(state_dict=weights), run_dir / f'iter_{number}.pth')
    (run_dir / 'last_checkpoint').write_text('/moved/iter_1.pth')
    run('publish_model.py', run_dir, tmp_path / 'a.pth')
    (written,) = tmp_path.glob('a-*.pth')
    assert torch.load(written)['state_dict'] == dict(conv=torch.ones(1))
