"""Learning rate and weight decay of every parameter over the whole run."""

import math

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmmaskdistill.models.backbones.mask_distill_vit import ARCHS


def narrow(cfg):
    """Build the recipe's model with the same depth but a small width."""
    width = 8
    cfg.model.backbone.arch = dict(
        embed_dims=width,
        num_layers=ARCHS[cfg.model.backbone.arch]['num_layers'],
        num_heads=2,
        feedforward_channels=width,
    )
    cfg.model.backbone.pop('init_cfg', None)
    if 'decode_head' in cfg.model:
        cfg.model.neck.embed_dim = width
        cfg.model.decode_head.update(in_channels=[width] * 4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=width, channels=8)
        cfg.model.data_preprocessor = None
    else:
        cfg.model.head.in_channels = width
    if 'teacher' in cfg.model:
        cfg.model.teacher = dict(
            type='mmmaskdistill.TimmTeacher',
            model_name='test_vit',
            pretrained='random',
            resize='bilinear',
        )
        cfg.model.head.out_channels = 64
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def depth_of(parameter, blocks):
    """Return 0 for tokens and patch embedding, i + 1 for block i, else the top."""
    module, *names = parameter.split('.')
    if module == 'backbone':
        if names[0] == 'blocks':
            return int(names[1]) + 1
        if names[0] in ('cls_token', 'mask_token', 'pos_embed', 'patch_embed'):
            return 0
    return blocks + 1


def has_no_weight_decay(parameter, tensor):
    return tensor.ndim == 1 or parameter in ('backbone.cls_token', 'backbone.pos_embed')


def expected_groups(model, decay, weight_decay=0.05):
    """Map each parameter to (factor on the learning rate, weight decay)."""
    blocks = len(model.backbone.blocks)
    return {
        name: (
            decay ** (blocks + 1 - depth_of(name, blocks)),
            0.0 if has_no_weight_decay(name, tensor) else weight_decay,
        )
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }


def groups_of(model, optimizer):
    """Map each parameter to the index of its group."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: k
        for k, group in enumerate(optimizer.param_groups)
        for p in group['params']
    }


def test_parameters_have_the_expected_lr_and_weight_decay(name, recipe):
    """The optimizer's groups equal an independent statement of the rules."""
    cfg = recipe(name)
    paramwise = cfg.optim_wrapper.paramwise_cfg
    model = narrow(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    expected = expected_groups(
        model, paramwise.get('layer_decay_rate', 1.0), 0.0 if 'linear' in name else 0.05
    )
    groups = groups_of(model, optimizer)
    assert set(groups) == set(expected)
    lr = cfg.optim_wrapper.optimizer.lr
    for parameter, (scale, weight_decay) in expected.items():
        group = optimizer.param_groups[groups[parameter]]
        assert group['lr'] == pytest.approx(lr * scale, rel=1e-12), parameter
        assert group['weight_decay'] == weight_decay, parameter

    tables = [expected[n] for n in expected if n.endswith('bias_table')]
    if 'linear' in name:
        assert set(groups) == {'head.fc.weight', 'head.fc.bias'}
    elif 'teacher' in cfg.model:
        assert tables == [(1, 0.05)]
    else:
        assert len(tables) == len(model.backbone.blocks)
        assert all(weight_decay == 0.05 for _, weight_decay in tables)


def test_mask_token_has_weight_decay_in_pretraining(recipe):
    cfg = recipe('maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k')
    model = narrow(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = groups_of(model, optimizer)
    for parameter, weight_decay in [
        ('backbone.mask_token', 0.05),
        ('backbone.cls_token', 0),
    ]:
        group = optimizer.param_groups[groups[parameter]]
        assert group['weight_decay'] == weight_decay


class Batches(BaseDataset):
    """A dataset of ``length`` empty samples."""

    METAINFO = dict()

    def __init__(self, length):
        self.length = length
        super().__init__()

    def full_init(self):
        pass

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {}


class Record(Hook):
    """Record the learning rates of every iteration."""

    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, **kwargs):
        groups = runner.optim_wrapper.optimizer.param_groups
        self.rates.append([group['lr'] for group in groups])


def run(cfg, model, tmp_path, batches):
    """Run the training loop and its schedules, without forward and backward.

    Returns:
        tuple: The learning rates [iterations, groups], and the index of each
        parameter's group.
    """

    def train_step(data, optim_wrapper):
        optim_wrapper.step()  # Without this call, the schedules warn.
        return {}

    model.train_step = train_step
    record = Record()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    Runner(
        model,
        str(tmp_path),
        train_dataloader=dict(
            batch_size=1,
            dataset=Batches(batches),
            sampler=dict(
                type='DefaultSampler'
                if 'max_epochs' in cfg.train_cfg
                else 'InfiniteSampler'
            ),
        ),
        train_cfg=cfg.train_cfg,
        optim_wrapper=wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=[record],
        log_level='ERROR',
        default_scope=cfg.default_scope,
        experiment_name=tmp_path.name,
    ).train()
    return np.array(record.rates), groups_of(model, wrapper.optimizer)


def reference_cosine(peak, end, start, epochs, warmup_epochs, batches):
    """Compute BEiT v2's `cosine_scheduler` (utils.py), one value per iteration."""
    warmup = np.linspace(start, peak, warmup_epochs * batches)
    rest = (epochs - warmup_epochs) * batches
    return np.concatenate(
        [
            warmup,
            [
                end + 0.5 * (peak - end) * (1 + math.cos(math.pi * i / rest))
                for i in range(rest)
            ],
        ]
    )


# fmt: off
COSINE = {
    # peak lr, last lr, first lr, epochs, warm-up epochs, layer decay
    'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k':
        (1.5e-3, 1e-5, 1e-6, 300, 10, 1),
    'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-800e_in1k':
        (1.5e-3, 1e-5, 1e-6, 800, 10, 1),
    'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k':
        (5e-4, 1e-6, 1e-6, 100, 20, 0.65),
    'vit-b16_maskdistill-800e_8xb128-amp-coslr-100e_in1k':
        (5e-4, 1e-6, 1e-6, 100, 20, 0.6),
    'vit-l16_maskdistill-300e_8xb128-amp-coslr-50e_in1k':
        (5e-4, 1e-6, 1e-6, 50, 5, 0.8),
    'vit-l16_maskdistill-800e_8xb128-amp-coslr-50e_in1k':
        (2e-4, 1e-6, 1e-6, 50, 5, 0.8),
    'vit-h14_maskdistill-300e_8xb64-accum2-amp-coslr-30e_in1k':
        (2e-4, 1e-6, 1e-6, 30, 5, 0.85),
}
# fmt: on


@pytest.mark.parametrize('name', COSINE)
def test_cosine_schedule_equals_the_reference(name, recipe, tmp_path):
    """Every layer has the reference's schedule times the layer's scale."""
    *schedule, decay = COSINE[name]
    batches = 2
    cfg = recipe(name)
    model = narrow(cfg)
    rates, groups = run(cfg, model, tmp_path, batches)
    expected = reference_cosine(*schedule, batches)
    for parameter, (scale, _) in expected_groups(model, decay).items():
        np.testing.assert_allclose(
            rates[:, groups[parameter]], scale * expected, rtol=1e-9, err_msg=parameter
        )


def test_linear_probe_schedule_equals_the_reference(recipe, tmp_path):
    """It is MAE's, except that the warm-up starts at 1e-4 of the peak, not at 0."""
    cfg = recipe('vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k')
    rates, groups = run(cfg, narrow(cfg), tmp_path, batches=2)
    assert set(groups) == {'head.fc.weight', 'head.fc.bias'}
    expected = reference_cosine(6.4, 0, 6.4e-4, 90, 10, 2)
    for group in groups.values():
        np.testing.assert_allclose(rates[:, group], expected, rtol=1e-9)


@pytest.mark.parametrize(
    'name, peak, decay',
    [
        ('vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512', 5e-5, 0.75),
        ('vit-l16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512', 4e-5, 0.9),
        ('vit-h14_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512', 4e-5, 0.9),
    ],
)
def test_segmentation_schedule_equals_the_reference(
    name, peak, decay, recipe, tmp_path
):
    """mmcv 1.x: policy='poly', power=1, warmup='linear', warmup_ratio=1e-6."""
    cfg = recipe(name)
    iterations, warmup = 320, 3  # instead of 160,000 and 1500
    cfg.train_cfg.max_iters = iterations
    for schedule in cfg.param_scheduler:
        schedule.end = schedule.end // 500 + 1
    model = narrow(cfg)
    rates, groups = run(cfg, model, tmp_path, batches=1)
    i = np.arange(iterations)
    expected = peak * (1 - i / iterations)
    expected[:warmup] *= 1 - (1 - i[:warmup] / warmup) * (1 - 1e-6)
    for parameter, (scale, _) in expected_groups(model, decay).items():
        np.testing.assert_allclose(
            rates[:, groups[parameter]], scale * expected, rtol=1e-9, err_msg=parameter
        )
