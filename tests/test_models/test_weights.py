import pickle

import pytest
import torch
from safetensors.torch import save_file

from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.layers import resize_relative_position_table
from mmmaskdistill.models.weights import (CheckpointError, load_backbone,
                                          read_state_dict)

ARCH = dict(
    embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)
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


def downstream(**kwargs):
    return MaskDistillViT(
        **{
            'arch': ARCH,
            'img_size': 64,
            'use_rel_pos_bias': True,
            'use_shared_rel_pos_bias': False,
            'final_norm': False,
            **kwargs
        })


def test_shared_table_becomes_one_a_block(student, pretrained):
    vit = downstream(
        init_cfg=dict(type='Pretrained', checkpoint=pretrained))
    vit.init_weights()
    shared = student.rel_pos_bias.relative_position_bias_table
    for block in vit.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, shared)
    tables = {b.attn.relative_position_bias_table.data_ptr()
              for b in vit.blocks}
    assert len(tables) == 3
    images = torch.randn(1, 3, 64, 64)
    student.norm, norm = torch.nn.Identity(), student.norm
    torch.testing.assert_close(vit(images), student(images))
    student.norm = norm


def test_tables_are_resized_to_the_window(student, pretrained):
    vit = downstream(img_size=(128, 96))
    report = load_backbone(vit, pretrained)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 6))
    assert torch.equal(vit.blocks[2].attn.relative_position_bias_table,
                       expected)
    assert any('resized' in line for line in report)
    assert any('expanded' in line for line in report)


def test_load_state_dict_adapts_too(student, pretrained):
    """So ``load_from`` serves as well, through mmengine's loader."""
    from mmengine.runner import load_checkpoint
    model = torch.nn.Module()
    model.backbone = downstream(img_size=128)
    load_checkpoint(model, pretrained, strict=False)
    expected = resize_relative_position_table(
        student.rel_pos_bias.relative_position_bias_table, (4, 4), (8, 8))
    table = model.backbone.blocks[0].attn.relative_position_bias_table
    assert torch.equal(table, expected)


def test_prefix_may_lack_its_dot(pretrained):
    with_dot = load_backbone(downstream(), pretrained, prefix='backbone.')
    assert load_backbone(downstream(), pretrained, 'backbone') == with_dot


def test_report_says_what_happened(student, pretrained):
    report = load_backbone(downstream(out_type='avg_featmap'), pretrained)
    assert 'tensors matched' in report[0]
    assert any('left as initialized: fc_norm' in line for line in report)
    assert any('not used' in line and 'norm.weight' in line
               for line in report)


@pytest.mark.parametrize('arch, message', [
    ({**ARCH, 'num_layers': 4}, r'missing \(blocks.3'),
    ({**ARCH, 'embed_dims': 96}, 'of another shape'),
])
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
    expected = torch.nn.functional.interpolate(
        grid, (8, 8), mode='bicubic').flatten(2).transpose(1, 2)
    torch.testing.assert_close(larger.pos_embed[:, 1:], expected)
    assert torch.equal(larger.pos_embed[:, 0], vit.pos_embed[:, 0])


def test_formats(student, tmp_path):
    state = student.state_dict()
    save_file(state, tmp_path / 'a.safetensors')
    torch.save(dict(model=state), tmp_path / 'a.pth')
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'a.pt')
    for name in ('a.safetensors', 'a.pth'):
        read = read_state_dict(str(tmp_path / name))
        assert read.keys() == state.keys()
        assert all(torch.equal(read[k], state[k]) for k in state)
    assert set(read_state_dict(str(tmp_path / 'a.pt'))) == {'weight', 'bias'}


class Evil:
    ran = False

    def __reduce__(self):
        return setattr, (Evil, 'ran', True)


def test_no_code_of_a_file_is_run(tmp_path):
    torch.save(dict(model=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        read_state_dict(str(tmp_path / 'evil.pth'))
    assert not Evil.ran
