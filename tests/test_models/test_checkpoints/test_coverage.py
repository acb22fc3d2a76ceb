"""Checkpoints that do not cover a model are refused, with advice."""

import pytest
import torch
from helpers import tiny
from torch import nn

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import fit_content, load_backbone

ARCH = dict(tiny.ARCH, num_layers=3)


def test_report_names_unmatched_and_unused_tensors(student, pretrained, downstream):
    report = load_backbone(downstream(out_type='avg_featmap'), pretrained)
    assert 'tensors matched' in report[0]
    assert any('not in the checkpoint: fc_norm' in line for line in report)
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


class BatchNormModel(nn.Module):
    """A model with eight tensors that a checkpoint must have, and a counter."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 1)
        )


def judge(model, weights, complete=True):
    """Fit weights to a model as a runner does and return the report."""
    content = dict(state_dict=dict(weights))
    return fit_content(model, content, 'a.pth', complete)


def test_coverage_reports_what_does_not_match():
    model = BatchNormModel()
    weights = model.state_dict()
    assert judge(model, weights) == ['model from a.pth: 8 of 8 tensors matched']

    with pytest.raises(CheckpointError) as error:
        judge(model, BatchNormModel(width=16).state_dict())
    assert 'model from a.pth: 1 of 8 tensors matched; ' in str(error.value)
    assert 'layers.0.weight is (16, 4), not (8, 4)' in str(error.value)
    assert ' and 4 more' in str(error.value)

    part = {'layers.0.bias': weights['layers.0.bias'], 'other': torch.ones(1)}
    # A model without a backbone must be covered as a whole in any case.
    for complete in (True, False):
        with pytest.raises(CheckpointError) as error:
            judge(model, part, complete)
        assert 'not in the checkpoint: layers.0.weight' in str(error.value)
        assert 'not in the model: other' in str(error.value)


def test_training_start_needs_a_complete_backbone():
    """The head and the parameters of only one of the tasks may differ."""
    model = nn.ModuleDict(
        dict(
            backbone=MaskDistillViT(
                {**ARCH, 'num_layers': 2}, img_size=32, final_norm=False
            ),
            head=nn.Linear(24, 3),
        )
    )
    other = nn.ModuleDict(
        dict(
            backbone=MaskDistillViT(
                {**ARCH, 'num_layers': 2},
                img_size=48,
                out_type='avg_featmap',
                use_rel_pos_bias=True,
                use_shared_rel_pos_bias=False,
            ),
            head=nn.Linear(24, 5),
        )
    )
    # The shared table is resized to the other patch grid and copied to every block.
    report = '\n'.join(judge(other, model.state_dict(), complete=False))
    assert 'other shape: head.weight is (3, 24), not (5, 24)' in report
    assert (
        'not in the checkpoint: backbone.norm.weight, backbone.norm.bias, '
        'backbone.fc_norm.weight and 1 more'
    ) in report
    with pytest.raises(CheckpointError, match='another architecture'):
        judge(other, model.state_dict())

    state = other.state_dict()
    del state['backbone.blocks.1.mlp.fc1.bias']
    with pytest.raises(
        CheckpointError,
        match=r'fit the backbone: 1 .* missing .*\(backbone.blocks.1.mlp.fc1.bias\)',
    ):
        judge(other, state, complete=False)
    state['backbone.blocks.1.mlp.fc1.bias'] = torch.ones(2)
    with pytest.raises(CheckpointError, match=r'\(2,\), not \(48,\)'):
        judge(other, state, complete=False)


def test_loading_hooks_are_applied_before_the_comparison():
    model = BatchNormModel()
    model.layers[0]._register_load_state_dict_pre_hook(
        lambda state, prefix, *args: state.update(
            {f'{prefix}weight': state[f'{prefix}weight'][:8]}
        )
    )
    weights = BatchNormModel().state_dict()
    weights['layers.0.weight'] = torch.ones(16, 4)
    assert '8 of 8' in judge(model, weights)[0]


def test_essential_parts_are_needed_at_every_door(pretrained, downstream):
    """A checkpoint with four blocks would silently lose one of them."""
    deeper = nn.Module()
    deeper.backbone = downstream(arch={**ARCH, 'num_layers': 4})
    model = nn.Module()
    model.backbone = downstream()
    message = r'does not have \(backbone.blocks.3.*set arch and patch_size.*init_cfg'
    with pytest.raises(CheckpointError, match=message):
        judge(model, deeper.state_dict(), complete=False)


def test_another_backbone_gets_no_advice_for_vits(downstream):
    model = nn.Module()
    model.backbone = downstream()
    with pytest.raises(
        CheckpointError, match='whole model with this backbone'
    ) as error:
        judge(model, {'backbone.conv1.weight': torch.zeros(1)}, complete=False)
    assert 'use_rel_pos_bias' not in str(error.value)


def test_backbones_of_other_libraries_may_lack_only_optional_parts():
    model = nn.ModuleDict(
        dict(backbone=nn.ModuleDict(dict(conv=nn.Linear(2, 2), norm=nn.LayerNorm(2))))
    )
    state = model.state_dict()
    del state['backbone.norm.weight']
    judge(model, state, complete=False)
    del state['backbone.conv.weight']
    with pytest.raises(CheckpointError, match='missing.*backbone.conv.weight.*whole'):
        judge(model, state, complete=False)


def test_report_says_what_was_left_out_and_why(student, downstream):
    model = nn.Module()
    model.backbone = downstream()
    state = {f'backbone.{k}': v for k, v in student.state_dict().items()}
    state |= {
        'backbone.fpn1.0.weight': torch.ones(1),
        'neck.conv.weight': torch.ones(1),
    }
    total = len(model.state_dict())
    assert judge(model, state, complete=False) == [
        f'model from a.pth: {total} of {total} tensors matched',
        'expanded rel_pos_bias.relative_position_bias_table to one table for each of '
        '3 blocks',
        'not used: backbone.norm, 2 tensors (the backbone has final_norm=False)',
        'not used: backbone.fpn1, 1 tensors (resizes feature maps; segmentors have a '
        'neck for it)',
        'not in the model: neck.conv.weight',
    ]


def test_wrapped_models_and_older_batch_norms_are_covered():
    model = BatchNormModel()
    state = model.state_dict()
    del state['layers.1.num_batches_tracked']
    wrapped = nn.DataParallel(model)
    for weights in (state, {f'module.{key}': v for key, v in state.items()}):
        report = judge(wrapped, weights)
        assert report == ['model from a.pth: 8 of 8 tensors matched']


def test_versions_of_modules_stay_with_the_weights():
    """torch keeps them in an attribute of the state dict."""
    model = BatchNormModel()
    content = dict(state_dict=model.state_dict())
    versions = content['state_dict']._metadata
    fit_content(model, content, 'a.pth')
    assert content['state_dict']._metadata is versions
    assert content['state_dict'].keys() == model.state_dict().keys()
