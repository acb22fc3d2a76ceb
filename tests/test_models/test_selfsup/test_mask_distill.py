from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from mmengine.hooks import EMAHook
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.registry import MODELS

BACKBONE = dict(tiny.STUDENT, img_size=96)
TEACHER = dict(tiny.TEACHER, img_size=96)
PREPROCESSOR = dict(
    type='mmmaskdistill.TwoViewDataPreprocessor',
    mean=[120.0, 110.0, 100.0],
    std=[60.0, 50.0, 40.0],
    second_mean=[127.0, 127.0, 127.0],
    second_std=[128.0, 128.0, 128.0],
    to_rgb=True,
)


def build(**kwargs):
    return tiny.build(
        **{
            'backbone': BACKBONE,
            'teacher': TEACHER,
            'data_preprocessor': PREPROCESSOR,
            **kwargs,
        }
    )


def batch():
    mask = torch.zeros(2, 6, 6, dtype=torch.long)
    mask[0, 1:3, 2:5] = mask[1, 4:, :3] = 1
    return dict(
        inputs=torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8),
        data_samples=[DataSample().set_mask(m) for m in mask],
    ), mask.bool()


def test_loss_equals_the_formula():
    """The loss is L( H( S(x, m) )[m], N( T(x) )[m] ).

    Student and teacher see the image normalized by their own mean and std.
    """
    model = build()
    data, mask = batch()
    rgb = data['inputs'].flip(1).float()

    def normalized(mean, std):
        return (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
            3, 1, 1
        )

    hidden = mask.flatten(1)
    student = model.head(
        model.backbone(normalized([120.0, 110.0, 100.0], [60.0, 50.0, 40.0]), hidden)
    )
    target = model.teacher(normalized([127.0] * 3, [128.0] * 3))
    target = F.layer_norm(target, (64,), eps=1e-6)[hidden]
    expected = F.smooth_l1_loss(student, target)

    data = model.data_preprocessor(data, training=True)
    loss = model(**data, mode='loss')['loss']
    torch.testing.assert_close(loss, expected)


def test_targets_of_visible_patches_do_not_count(monkeypatch):
    model = build()
    data, mask = batch()
    data = model.data_preprocessor(data, training=True)
    loss = model(**data, mode='loss')['loss']
    forward = model.teacher.forward

    def corrupted(*args):
        return torch.where(
            mask.flatten(1)[..., None], forward(*args), torch.tensor(1e6)
        )

    monkeypatch.setattr(model.teacher, 'forward', corrupted)
    assert model(**data, mode='loss')['loss'] == loss


def test_two_views_are_normalized_separately():
    model = build()
    pictures = torch.randint(0, 256, (2, 1, 3, 96, 96), dtype=torch.uint8)
    views = model.data_preprocessor(dict(inputs=list(pictures), data_samples=[]))[
        'inputs'
    ]
    for view, picture, mean, std in zip(
        views, pictures, ([120, 110, 100], [127] * 3), ([60, 50, 40], [128] * 3)
    ):
        expected = (picture.flip(1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
            std
        ).view(3, 1, 1)
        torch.testing.assert_close(view, expected)


def test_teacher_is_frozen_and_not_part_of_the_model():
    model = build()
    model.train()
    assert not any(m.training for m in model.teacher.modules())
    teachers = {id(p) for p in model.teacher.parameters()}
    assert not teachers & {id(p) for p in model.parameters()}
    assert not any('teacher' in key for key in model.state_dict())
    optim = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-3)))
    optimized = {id(p) for g in optim.param_groups for p in g['params']}
    assert not teachers & optimized
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    data, _ = batch()
    model.train_step(data, optim)
    for key, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[key])


def test_every_parameter_has_a_gradient():
    """DistributedDataParallel refuses parameters that get no gradient."""
    model = build()
    data, _ = batch()
    data = model.data_preprocessor(data, training=True)
    model(**data, mode='loss')['loss'].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_teacher_moves_to_the_models_dtype_and_device():
    model = build().to(torch.float64)
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    assert {p.device.type for p in model.to('meta').teacher.parameters()} == {'meta'}


def test_copies_share_the_teacher():
    model = build()
    copy = deepcopy(model)
    assert copy.teacher is model.teacher
    for own, other in zip(model.parameters(), copy.parameters()):
        assert torch.equal(own, other) and own is not other
    # An EMA may be kept on another device or in another dtype.
    copy.to(torch.float64)
    data, _ = batch()
    data = model.data_preprocessor(data, training=True)
    assert model(**data, mode='loss')['loss'].dtype == torch.float32


def test_ema_trains_and_resumes_with_one_teacher(tmp_path):
    def train(work_dir, resume=False, max_epochs=2):
        data, _ = batch()
        runner = ResumableRunner(
            model=build(),
            work_dir=str(tmp_path / work_dir),
            train_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler'),
                collate_fn=dict(type='default_collate'),
                dataset=[
                    dict(inputs=x, data_samples=sample)
                    for x, sample in zip(data['inputs'], data['data_samples'])
                ],
            ),
            train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            custom_hooks=[dict(type='EMAHook', momentum=0.5)],
            resume=resume,
            randomness=dict(seed=0),
            experiment_name=f'{work_dir}{resume}{max_epochs}',
        )
        runner.train()
        ema = next(h for h in runner._hooks if isinstance(h, EMAHook))
        assert ema.ema_model.module.teacher is runner.model.teacher
        return runner.model, ema.ema_model

    torch.manual_seed(0)
    state = [m.state_dict() for m in train('whole')]
    torch.manual_seed(0)
    train('parts', max_epochs=1)
    torch.manual_seed(0)
    resumed = [m.state_dict() for m in train('parts', resume=True)]
    for whole, part in zip(state, resumed):
        assert not any('teacher' in key for key in whole)
        for key, tensor in whole.items():
            assert torch.equal(tensor, part[key]), key


@MODELS.register_module()
class ZeroFillingViT(MaskDistillViT):
    """A student that hides patches without a mask token."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mask_token = None

    def _draw_weights(self):
        pass

    def forward(self, x, mask):
        x, _ = self.patch_embed(x)
        return self.norm(x.masked_fill(mask[..., None], 0))[mask]


def test_student_may_have_no_mask_token():
    model = build(backbone={**BACKBONE, 'type': 'mmmaskdistill.ZeroFillingViT'})
    data, _ = batch()
    data = model.data_preprocessor(data, training=True)
    assert model(**data, mode='loss')['loss'].isfinite()


def test_student_and_teacher_of_different_grids_are_refused():
    with pytest.raises(ValueError) as error:
        build(teacher={**TEACHER, 'img_size': 64})
    for part in ('4 x 4', '6 x 6', '96 x 96 pixels'):
        assert part in str(error.value)


@pytest.mark.parametrize('shape, grid', [((4, 9), '4 x 9'), ((35,), '35')])
def test_masks_of_another_grid_are_refused(shape, grid):
    model = build()
    data = model.data_preprocessor(batch()[0], True)
    data['data_samples'] = [DataSample(mask=torch.ones(shape))] * 2
    with pytest.raises(ConfigError, match=f'draws masks of {grid} patches'):
        model.loss(**data)


def test_coarser_feature_map_is_resized_if_configured():
    teacher = dict(TEACHER, model_name='test_resnet', layer=4)
    channels = 384
    head = dict(type='mmmaskdistill.LinearHead', in_channels=24)
    with pytest.raises(ValueError, match='3 x 3'):
        build(teacher=teacher, head=dict(head, out_channels=channels))
    from timm import create_model

    channels = create_model('test_resnet').feature_info[4]['num_chs']
    model = build(
        teacher=dict(teacher, resize='bilinear'), head=dict(head, out_channels=channels)
    )
    data, _ = batch()
    data = model.data_preprocessor(data, training=True)
    assert model(**data, mode='loss')['loss'].isfinite()


def test_head_of_another_width_is_refused():
    head = dict(type='mmmaskdistill.LinearHead', in_channels=24, out_channels=63)
    with pytest.raises(ValueError, match='head.out_channels=64'):
        build(head=head)


def test_compare_returns_both_sides_of_the_loss():
    model = build()
    data, mask = batch()
    data = model.data_preprocessor(data)
    hidden = mask.flatten(1)
    sides = model.compare(**data)
    assert torch.equal(sides.mask, hidden.bool())
    assert sides.prediction[~sides.mask].isnan().all()
    assert sides.error[~sides.mask].isnan().all()
    loss = model(**data, mode='loss')['loss'].detach()
    student, teacher, error = (
        tokens[sides.mask] for tokens in (sides.prediction, sides.target, sides.error)
    )
    torch.testing.assert_close(F.smooth_l1_loss(student, teacher), loss)
    torch.testing.assert_close(
        F.smooth_l1_loss(student, teacher, reduction='none').mean(-1), error
    )


VISIBLE = dict(
    backbone=dict(BACKBONE, type='mmmaskdistill.VisibleViT'),
    head=dict(
        type='mmmaskdistill.DecoderHead',
        in_channels=24,
        out_channels=64,
        grid=6,
        embed_dims=24,
        num_layers=1,
        num_heads=2,
    ),
)
ALL = dict(BACKBONE, type='mmmaskdistill.AllTokensViT')


@pytest.mark.parametrize(
    'parts',
    [
        {},
        dict(backbone=dict(BACKBONE, drop_path_rate=0.4)),
        dict(backbone=ALL, predict='all'),
        dict(backbone=ALL, predict='visible'),
        dict(
            backbone=dict(ALL, class_token=True),
            teacher=dict(TEACHER, class_token=True),
            predict='visible',
        ),
        dict(
            backbone=dict(
                BACKBONE, type='mmmaskdistill.PatchAggregationViT', early_layers=1
            )
        ),
        dict(VISIBLE),
        dict(VISIBLE, predict='all'),
        dict(
            teacher=dict(
                type='mmmaskdistill.DALLETeacher',
                img_size=48,
                vocab_size=40,
                width=8,
                pretrained='random',
            ),
            normalizer=dict(type='mmmaskdistill.NoNormalizer'),
            head=dict(type='mmmaskdistill.CodebookHead', in_channels=24, vocab_size=40),
            loss=dict(type='mmmaskdistill.CrossEntropyLoss'),
        ),
    ],
)
def test_indices_of_the_mask_give_the_same_loss(parts):
    """The loss and all gradients equal those by the mask alone."""
    model = build(**parts)
    data, _ = batch()
    data = model.data_preprocessor(data, True)
    if 'DALLE' in str(parts):
        data['inputs'] = [data['inputs'][0], data['inputs'][1][..., ::2, ::2]]
    found = []
    for indexed in (True, False):
        if not indexed:
            for sample in data['data_samples']:
                del sample.hidden, sample.visible
        model.zero_grad()
        np.random.seed(0)
        loss = model.loss(**data)['loss']
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_preprocessor_makes_indices_of_equal_masks_only():
    model = build()
    data, mask = batch()
    samples = model.data_preprocessor(data, True)['data_samples']
    for sample, hidden in zip(samples, mask.flatten(1)):
        assert sample.hidden.tolist() == hidden.nonzero()[:, 0].tolist()
        assert sample.visible.tolist() == (~hidden).nonzero()[:, 0].tolist()
    data['data_samples'][0].mask[0, 0] = 1
    samples = model.data_preprocessor(data, True)['data_samples']
    assert 'hidden' not in samples[0]
    assert model.loss([torch.randn(2, 3, 96, 96)] * 2, samples)['loss'].isfinite()


WEIGHTED = dict(backbone=ALL, predict='all')


def weighted_loss(model, data, weight):
    """The formula of MaskDistill's docstring, written for single images."""
    student, teacher = data['inputs']
    sums, counts = [0.0, 0.0], [0, 0]
    for i, sample in enumerate(data['data_samples']):
        mask = sample.mask.flatten()[None].bool()
        prediction = model.head(model.backbone(student[i : i + 1], mask)[0])
        target = model.normalizer(model.teacher(teacher[i : i + 1]))[0]
        distance = F.smooth_l1_loss(prediction, target, reduction='none').mean(1)
        if model.teacher.class_token:
            mask = F.pad(mask, (1, 0), value=True)
        for k, group in enumerate((mask[0], ~mask[0])):
            sums[k] += distance[group].sum()
            counts[k] += int(group.sum())
    return (sums[0] + weight * sums[1]) / (counts[0] + weight * counts[1])


@pytest.mark.parametrize('indexed', [True, False])
@pytest.mark.parametrize('weight', [0, 0.3, 1, 2.5])
@pytest.mark.parametrize('class_token', [False, True])
def test_visible_patches_have_their_weight(weight, indexed, class_token):
    model = build(
        backbone=dict(ALL, class_token=class_token),
        teacher=dict(TEACHER, class_token=class_token),
        predict='all',
        visible_weight=weight,
    )
    data = model.data_preprocessor(batch()[0], True)
    if not indexed:
        for sample in data['data_samples']:
            del sample.hidden, sample.visible
    torch.testing.assert_close(
        model.loss(**data)['loss'], weighted_loss(model, data, weight)
    )


@pytest.mark.parametrize('weight', [0.3, 1])
def test_distances_of_hidden_and_visible_patches_are_logged(weight):
    model = build(**WEIGHTED, visible_weight=weight)
    data = model.data_preprocessor(batch()[0], True)
    losses = model.loss(**data)
    mask = torch.stack([s.mask.flatten() for s in data['data_samples']]).bool()
    errors = model.compare(**data).error
    for name, where in (('hidden', mask), ('visible', ~mask)):
        logged = losses[f'distance_{name}']
        assert not logged.requires_grad
        torch.testing.assert_close(logged, errors[where].mean())
    total, log = model.parse_losses(losses)
    assert torch.equal(total, losses['loss']) and set(log) == set(losses)


def test_no_distances_are_logged_if_no_patch_is_hidden():
    model = build(**WEIGHTED)
    data, _ = batch()
    for sample in data['data_samples']:
        sample.set_mask(torch.zeros(6, 6))
    assert set(model.loss(**model.data_preprocessor(data, True))) == {'loss'}


@pytest.mark.parametrize('hidden', [0, 36])
def test_a_batch_may_hide_no_patch_or_all(hidden):
    """The loss is then the mean over the patches of the other kind."""
    model = build(**WEIGHTED, visible_weight=0.3)
    data, _ = batch()
    for sample in data['data_samples']:
        sample.set_mask(torch.full((6, 6), int(hidden > 0)))
    data = model.data_preprocessor(data, True)
    plain = build(**WEIGHTED)
    plain.load_state_dict(model.state_dict())
    plain.__dict__['teacher'] = model.teacher
    torch.testing.assert_close(model.loss(**data)['loss'], plain.loss(**data)['loss'])


def test_visible_weight_follows_the_progress_of_the_run():
    model = build(**WEIGHTED, visible_weight=dict(start=1, end=0, until=0.5)).train()
    data = model.data_preprocessor(batch()[0], True)
    with pytest.raises(ConfigError, match='the samples have no progress'):
        model.loss(**data)
    computed = []
    model.backbone.norm.register_forward_hook(
        lambda *args: computed.append(args[1][0].shape[:-1].numel())
    )
    for progress, weight, tokens in ((0, 1, 72), (0.2, 0.6, 72), (0.5, 0, 12)):
        for sample in data['data_samples']:
            sample.set_metainfo(dict(progress=progress))
        loss = model.loss(**data)['loss']
        # Tokens with weight 0 are not computed.
        assert computed.pop() == tokens
        torch.testing.assert_close(loss, weighted_loss(model, data, weight))
        computed.clear()
    # Outside of training the weight is that of the run's end.
    model.eval()
    for sample in data['data_samples']:
        sample.pop('progress')
    torch.testing.assert_close(
        model.loss(**data)['loss'], weighted_loss(model, data, 0)
    )


def test_a_batch_in_which_nothing_counts_is_refused():
    data, _ = batch()
    for sample in data['data_samples']:
        sample.set_mask(torch.zeros(6, 6))
    for parts, words in (
        (dict(backbone=ALL), "predict='hidden', but no .* set predict='all'"),
        (dict(WEIGHTED, visible_weight=0), 'visible_weight is 0, .* stay above 0'),
    ):
        model = build(**parts)
        with pytest.raises(ConfigError, match=words):
            model.loss(**model.data_preprocessor(deepcopy(data), True))


@pytest.mark.parametrize('weight', [0, dict(start=1, end=0), dict(start=0, end=1)])
def test_pictures_leave_out_patches_of_weight_0(weight):
    model = build(**WEIGHTED, visible_weight=weight)
    data, mask = batch()
    sides = model.compare(**model.data_preprocessor(data, True))
    counts = mask.flatten(1) | (weight == dict(start=0, end=1))
    assert torch.equal(~sides.error.isnan(), counts)
    assert torch.equal(~sides.prediction.isnan().any(-1), counts)


def test_weights_do_not_leave_the_range_of_half_precision():
    model = build(**WEIGHTED, visible_weight=0.3)
    data = model.data_preprocessor(batch()[0], True)
    wanted = 8000 * model.loss(**data)['loss']
    model.distance.register_forward_hook(lambda *args: (8000 * args[2]).half())
    # The numbers of patches times the distances are more than 65504.
    assert sum(len(s.mask.flatten()) for s in data['data_samples']) * wanted > 65504
    loss = model.loss(**data)['loss']
    torch.testing.assert_close(loss.float(), wanted, rtol=1e-3, atol=0)


def test_a_weight_without_visible_patches_in_the_loss_is_refused():
    with pytest.raises(ConfigError, match="visible_weight.*predict='hidden'"):
        build(visible_weight=0.5)
    with pytest.raises(ConfigError, match='visible_weight=-1'):
        build(**WEIGHTED, visible_weight=-1)
