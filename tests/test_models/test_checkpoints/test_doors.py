"""Every door fits a checkpoint once, and all doors load the same tensors."""

import pytest
import torch
from helpers import tiny
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint
from mmpretrain.models import BEiTViT, SwinTransformer
from torch import nn

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import (
    EncoderDecoder,
    MaskDistillViT,
    MaskedSwin,
    MaskedTimm,
)
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


SWIN = dict(tiny.SWIN, img_size=64)


@pytest.fixture
def swin_checkpoint(tmp_path):
    """The checkpoint of a pre-training, and its student, a Swin."""
    swin = MaskedSwin(**SWIN)
    for parameter in swin.parameters():
        nn.init.normal_(parameter)
    path = str(tmp_path / 'epoch_300.pth')
    state = {f'backbone.{key}': value for key, value in swin.state_dict().items()}
    state['head.weight'] = torch.zeros(3, 96)
    torch.save(dict(state_dict=state), path)
    return path, swin


def swin_from(path, **options):
    cfg = dict(type='Pretrained', checkpoint=path, **options.pop('init_cfg', {}))
    swin = MaskedSwin(**{**SWIN, **options}, init_cfg=cfg)
    swin.init_weights()
    return swin


@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
def test_masked_swin_loads_the_student_of_a_checkpoint(swin_checkpoint, prefix, log):
    path, expected = swin_checkpoint
    swin = swin_from(path, init_cfg=dict(prefix=prefix), out_indices=(0, 1, 2, 3))
    for key, tensor in expected.state_dict().items():
        assert torch.equal(swin.state_dict()[key], tensor)
    assert torch.equal(swin.norm0.weight, torch.ones(12))
    (line,) = [line for line in log() if 'tensors matched' in line]
    assert line.startswith(f"backbone from {path}, prefix 'backbone.': ")
    # A list of entries used to draw the loaded weights again.
    entry = dict(type='Pretrained', checkpoint=path, prefix=prefix)
    listed = MaskedSwin(**SWIN, init_cfg=[entry])
    listed.init_weights()
    key = 'stages.2.blocks.1.ffn.layers.1.weight'
    assert torch.equal(listed.state_dict()[key], expected.state_dict()[key])


def test_masked_swin_resizes_tables_as_mmpretrain_does(tmp_path, log):
    def of_window(size, side):
        window = dict(block_cfgs=dict(window_size=size))
        return dict(arch=SWIN['arch'], img_size=side, stage_cfgs=window)

    given = MaskedSwin(**of_window(4, 128))
    given.init_weights()
    path = str(tmp_path / 'given.pth')
    torch.save(given.state_dict(), path)
    plain = SwinTransformer(**of_window(6, 192))
    load_checkpoint(plain, path)
    by_init_cfg = swin_from(path, **of_window(6, 192))
    assert any('5 relative position tables from the window' in line for line in log())
    strictly = MaskedSwin(**of_window(6, 192))
    strictly.load_state_dict(given.state_dict())
    for swin in (by_init_cfg, strictly):
        for key, tensor in plain.state_dict().items():
            torch.testing.assert_close(swin.state_dict()[key], tensor)
    key = next(key for key in given.state_dict() if key.endswith('bias_table'))
    with pytest.raises(CheckpointError, match='30 rows, which .*set window_size in'):
        strictly.load_state_dict({key: torch.zeros(30, 1)}, strict=False)


def test_masked_swin_resizes_the_position_embedding(tmp_path):
    absolute = dict(SWIN, use_abs_pos_embed=True)
    swin = MaskedSwin(**absolute)
    nn.init.normal_(swin.absolute_pos_embed)
    torch.save(swin.state_dict(), tmp_path / 'a.pth')
    plain = SwinTransformer(**dict(absolute, img_size=96))
    load_checkpoint(plain, str(tmp_path / 'a.pth'))
    larger = swin_from(str(tmp_path / 'a.pth'), use_abs_pos_embed=True, img_size=96)
    torch.testing.assert_close(larger.absolute_pos_embed, plain.absolute_pos_embed)
    with pytest.raises(CheckpointError, match='1 tensors that .*absolute_pos_embed'):
        swin_from(str(tmp_path / 'a.pth'))


def test_masked_swin_refuses_checkpoints_that_do_not_fit(swin_checkpoint, tmp_path):
    path, _ = swin_checkpoint
    with pytest.raises(CheckpointError, match='another shape .*Swin of width 24 with'):
        swin_from(path, arch=dict(SWIN['arch'], embed_dims=24))
    with pytest.raises(
        CheckpointError, match='1 \\+ 2 \\+ 2 \\+ 1 blocks; set arch to'
    ):
        swin_from(path, arch=dict(SWIN['arch'], depths=[1, 2, 2, 1]))
    with pytest.raises(CheckpointError, match='the backbone does not have .*stages.2'):
        swin_from(path, arch=dict(SWIN['arch'], depths=[1, 1, 1, 1]))
    with pytest.raises(CheckpointError, match="begins with 'student.'"):
        swin_from(path, init_cfg=dict(prefix='student'))
    state = read_weights(path).tensors
    del state['backbone.norm3.bias']
    torch.save(state, tmp_path / 'damaged.pth')
    with pytest.raises(CheckpointError, match=r'1 tensors missing .*\(norm3.bias\)'):
        swin_from(str(tmp_path / 'damaged.pth'))
    torch.save(dict(conv1=torch.zeros(1)), tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match='ends with stages.*first keys are conv1'):
        swin_from(str(tmp_path / 'resnet.pth'))
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    with pytest.raises(CheckpointError, match='text.pth'):
        swin_from(str(tmp_path / 'text.pth'))
    torch.save({f'{part}.{k}': v for k, v in state.items() for part in 'ab'}, path)
    with pytest.raises(CheckpointError, match="several models .*'a.backbone.', 'b"):
        swin_from(path)


def segmentor(backbone, **options):
    return EncoderDecoder(
        backbone=dict(backbone, type=f'mmmaskdistill.{backbone["type"]}'),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=24, channels=8, num_classes=3
        ),
        **options,
    )


def distillation(backbone, **options):
    backbone = dict(backbone, type=f'mmmaskdistill.{backbone["type"]}')
    return tiny.build(**tiny.PIXEL_PARTS, backbone=backbone, **options)


@pytest.mark.parametrize('build', [segmentor, distillation])
@pytest.mark.parametrize('prefix', [None, 'model'])
def test_init_cfg_of_a_whole_model_is_checked(build, prefix, tmp_path, log):
    vit = dict(type='MaskDistillViT', arch=ARCH, img_size=64)
    path = str(tmp_path / 'model.pth')
    cfg = dict(type='Pretrained', checkpoint=path, prefix=prefix)
    given = build(vit)
    nn.init.normal_(given.backbone.norm.bias)
    start = f'{prefix}.' if prefix else ''
    state = {start + key: value for key, value in given.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    model = build(vit, init_cfg=cfg)
    model.init_weights()
    assert torch.equal(model.backbone.norm.bias, given.backbone.norm.bias)
    assert any(line.startswith(f'model from {path}: ') for line in log())
    with pytest.raises(CheckpointError, match='set use_abs_pos_emb=False'):
        build(dict(vit, use_abs_pos_emb=True), init_cfg=cfg).init_weights()
    assert model.init_cfg == cfg
