"""Every door fits a checkpoint once, and all doors load the same tensors."""

import pytest
import torch
from helpers import tiny
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint
from mmpretrain.models import BEiTViT
from torch import nn

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT, MaskedTimm
from mmmaskdistill.models.checkpoints import (
    doors,
    export,
    fitting,
    load_backbone,
    load_model,
    read_weights,
)
from mmmaskdistill.models.layers import resize_relative_position_table

ARCH = dict(tiny.ARCH, num_layers=3)


def test_load_state_dict_resizes_tables_too(student, pretrained, downstream):
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


def test_prefix_may_omit_its_final_dot(pretrained, downstream):
    with_dot = load_backbone(downstream(), pretrained, prefix='backbone.')
    assert load_backbone(downstream(), pretrained, 'backbone') == with_dot


def test_init_cfg_may_be_a_list_and_have_a_map_location(
    student, pretrained, downstream
):
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


def test_init_cfg_has_priority_over_pretrained(student, pretrained, log, downstream):
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


def test_changes_made_by_each_loading_are_logged_once(student, log, downstream):
    vit = downstream(img_size=128)
    for loads in (1, 2):
        vit.load_state_dict(student.state_dict(), strict=False)
        lines = log()
        assert sum('expanded rel_pos_bias' in line for line in lines) == loads
        assert sum('resized 3 relative' in line for line in lines) == loads
    vit.load_state_dict(vit.state_dict())
    assert log() == lines


def test_file_without_a_vit_is_refused(tmp_path, downstream):
    torch.save(dict(conv1=torch.zeros(1)), tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match='the first keys are conv1'):
        load_backbone(downstream(), str(tmp_path / 'resnet.pth'))


@pytest.fixture
def fits(monkeypatch):
    """The models that tensors were fitted to, in order."""
    models = []

    def counting(model, tensors):
        models.append(model)
        return fitting.fit(model, tensors)

    monkeypatch.setattr(doors, 'fit', counting)
    monkeypatch.setattr(export, 'fit', counting)
    return models


@pytest.fixture
def foreign(tmp_path):
    """A checkpoint that needs every kind of fitting: names, tables and left-overs."""
    torch.manual_seed(0)
    vit = BEiTViT(
        ARCH,
        64,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
        final_norm=True,
        out_type='raw',
    )
    for parameter in vit.parameters():
        nn.init.normal_(parameter)
    return {f'backbone.{key}': tensor for key, tensor in vit.state_dict().items()}


class Segmentor(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(24, 5)

    def forward(self, inputs, mode='loss'):
        (maps,) = self.backbone(torch.stack(inputs))
        return dict(loss=self.head(maps.mean((2, 3))).square().mean())


def by_init_cfg(vit, path, folder):
    vit.init_cfg = dict(type='Pretrained', checkpoint=path)
    vit.init_weights()


def by_load_from(vit, path, folder):
    runner = ResumableRunner(
        Segmentor(vit),
        str(folder / 'run'),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.zeros(3, 128, 128))],
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=1,
            num_workers=0,
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        load_from=path,
        experiment_name=folder.name,
    )
    runner.train()


def by_load_state_dict(vit, path, folder):
    Segmentor(vit).load_state_dict(read_weights(path).tensors, strict=False)


def by_mmengine(vit, path, folder):
    load_checkpoint(Segmentor(vit), path, strict=False)


def by_load_model(vit, path, folder):
    state = read_weights(path).tensors | {
        'backbone.mask_token': torch.zeros(1, 1, 24),
        'head.weight': torch.zeros(5, 24),
        'head.bias': torch.zeros(5),
    }
    torch.save(state, path)
    load_model(Segmentor(vit), path)


DOORS = [by_init_cfg, by_load_from, by_load_state_dict, by_mmengine, by_load_model]


@pytest.mark.parametrize('door', DOORS)
def test_every_door_fits_once_and_loads_the_same(
    downstream, foreign, fits, tmp_path, door
):
    path = str(tmp_path / 'beit.pth')
    torch.save(dict(state_dict=foreign), path)
    vit = downstream(img_size=128)
    door(vit, path, tmp_path)
    assert len(fits) == 1
    table = resize_relative_position_table(
        foreign['backbone.rel_pos_bias.relative_position_bias_table'], (4, 4), (8, 8)
    )
    for block in vit.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, table)
    qkv = foreign['backbone.layers.2.attn.qkv.weight']
    assert torch.equal(vit.blocks[2].attn.qkv.weight, qkv)
    gamma = foreign['backbone.layers.1.gamma_2']
    assert torch.equal(vit.blocks[1].gamma_2, gamma)


def test_the_converter_fits_once(foreign, fits, tmp_path):
    path = str(tmp_path / 'beit.pth')
    torch.save(dict(state_dict=foreign), path)
    vit = export.read_vit(path)
    (model,) = fits
    assert isinstance(model, MaskDistillViT)
    assert all(parameter.is_meta for parameter in model.parameters())
    expected = foreign['backbone.layers.2.attn.qkv.weight']
    assert torch.equal(vit.state['blocks.2.attn.qkv.weight'], expected)
    assert (vit.depth, vit.width, vit.num_heads, vit.img_size) == (3, 24, 3, 64)


def test_every_door_logs_one_report(downstream, foreign, log, tmp_path):
    path = str(tmp_path / 'beit.pth')
    torch.save(dict(state_dict=foreign), path)
    for door in (by_init_cfg, by_load_state_dict, by_mmengine):
        before = len(log())
        door(downstream(img_size=128), path, tmp_path)
        lines = log()[before:]
        assert sum('tensors matched' in line for line in lines) == 1
        assert sum('expanded rel_pos_bias' in line for line in lines) == 1
        assert '  not used: ' in ''.join(lines)


def test_masked_timm_is_checked_like_other_backbones(tmp_path, log):
    small = MaskedTimm('test_vit', img_size=64)
    path = str(tmp_path / 'epoch_300.pth')
    state = {f'backbone.{key}': value for key, value in small.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone')
    vit = MaskedTimm('test_vit', img_size=128, init_cfg=cfg)
    vit.init_weights()
    key = 'timm_model.blocks.1.mlp.fc1.weight'
    assert torch.equal(vit.state_dict()[key], small.state_dict()[key])
    assert any('resized pos_embed by the rule of timm' in line for line in log())
    with pytest.raises(CheckpointError, match='missing.*test_vit2 of timm; set model_'):
        MaskedTimm('test_vit2', img_size=64, init_cfg=cfg).init_weights()
    cfg['prefix'] = 'student'
    with pytest.raises(CheckpointError, match="begins with 'student.'.*backbone.timm"):
        MaskedTimm('test_vit', img_size=64, init_cfg=cfg).init_weights()


def test_weights_of_timm_are_not_drawn_again():
    vit = MaskedTimm('test_vit', img_size=64)
    vit.pretrained = True  # As if timm had loaded the weights.
    before = vit.timm_model.blocks[0].attn.qkv.weight.clone()
    vit.init_weights()
    assert torch.equal(vit.timm_model.blocks[0].attn.qkv.weight, before)
