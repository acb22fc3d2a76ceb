from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill

ARCH = dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=48)


def build(momentum=0.9, **kwargs):
    torch.manual_seed(0)
    model = MaskDistill(
        **{
            'backbone': dict(
                type='mmmaskdistill.MaskDistillViT', arch=ARCH, img_size=64
            ),
            'teacher': dict(
                type='mmmaskdistill.MomentumTeacher', momentum=momentum, num_layers=2
            ),
            'normalizer': dict(type='mmmaskdistill.LayerNormalizer'),
            'head': dict(
                type='mmmaskdistill.LinearHead', in_channels=24, out_channels=24
            ),
            'loss': dict(type='mmmaskdistill.SmoothL1Loss', beta=2.0),
            **kwargs,
        }
    )
    model.init_weights()
    return model


def batch():
    mask = torch.arange(16) < 6
    return torch.randn(2, 3, 64, 64), [DataSample().set_mask(mask)] * 2


def test_features_are_the_mean_of_normalized_block_outputs():
    """As in data2vec, outputs of the last blocks are layer-normed and averaged."""
    model = build()
    images, _ = batch()
    student = model.backbone.eval()
    tokens, grid = student._embed(images)
    expected = 0
    for i, block in enumerate(student.blocks):
        tokens = block(tokens, grid, student.rel_pos_bias(grid))
        if i:
            expected = expected + F.layer_norm(tokens[:, 1:], (24,)) / 2
    torch.testing.assert_close(model.teacher(images), expected, rtol=1e-4, atol=1e-4)


def test_teacher_moves_towards_the_student_in_each_training_step():
    model = build(momentum=0.75)
    name = 'blocks.0.mlp.fc1.weight'
    start = model.backbone.get_parameter(name).detach().clone()
    weight = dict(model.teacher.model.named_buffers())[name]
    assert torch.equal(weight, start)
    images, samples = batch()
    model.train()
    with torch.no_grad():
        model.backbone.get_parameter(name).add_(1.0)
    model.loss(images, samples)
    torch.testing.assert_close(weight, start + 0.25)
    model.loss(images, samples)
    torch.testing.assert_close(weight, start + 0.25 + 0.75 * 0.25)
    model.eval()
    model.loss(images, samples)
    torch.testing.assert_close(weight, start + 0.25 + 0.75 * 0.25)
    assert not any(module.training for module in model.teacher.modules())


def test_teacher_is_in_checkpoints_but_not_in_optimizers():
    model = build()
    saved = {k for k in model.state_dict() if k.startswith('teacher.')}
    assert 'teacher.model.blocks.0.mlp.fc1.weight' in saved
    assert not [k for k, _ in model.named_parameters() if 'teacher' in k]
    optim = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-3)))
    seen = {id(p) for g in optim.param_groups for p in g['params']}
    assert not seen & {id(b) for b in model.teacher.buffers()}
    copy = deepcopy(model)
    assert copy.teacher is not model.teacher
    assert set(copy.state_dict()) == set(model.state_dict())
    assert model.double().teacher.model.cls_token.dtype == torch.float64


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):

    def train(work_dir, max_epochs, resume=False):
        model = build(data_preprocessor=dict(type='SelfSupDataPreprocessor'))
        images, samples = batch()
        torch.manual_seed(1)
        images = torch.randn(2, 3, 64, 64)
        runner = ResumableRunner(
            model=model,
            work_dir=str(tmp_path / work_dir),
            train_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler'),
                collate_fn=dict(type='default_collate'),
                dataset=[
                    dict(inputs=x, data_samples=s) for x, s in zip(images, samples)
                ],
            ),
            train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            default_scope='mmpretrain',
            resume=resume,
            randomness=dict(seed=0),
            experiment_name=f'{work_dir}{resume}{max_epochs}',
        )
        runner.train()
        return runner.model.state_dict()

    whole = train('whole', 3)
    train('parts', 1)
    parts = train('parts', 3, resume=True)
    assert set(whole) == set(parts)
    for key, tensor in whole.items():
        assert torch.equal(tensor, parts[key]), key


def test_students_it_cannot_follow_are_refused():
    with pytest.raises(ConfigError, match='MaskedTimm'):
        build(
            backbone=dict(
                type='mmmaskdistill.MaskedTimm', model_name='test_vit', img_size=64
            )
        )
    with pytest.raises(ConfigError, match='num_layers=9'):
        build(teacher=dict(type='mmmaskdistill.MomentumTeacher', num_layers=9))
