"""Memory that is predicted from shapes is that of real training steps on a CPU."""

from pathlib import Path

import pytest
import torch
from benchmarks.measure import kept_bytes, peak_bytes
from helpers.small_configs import ARCH, shrink_recipe
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from mmmaskdistill.apis.memory import (
    KeptBytes,
    Memory,
    build_without_values,
    predict_memory,
    random_batch,
    recipe_precision,
    state_bytes,
    training_step,
)
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models.layers import memory_saving
from mmmaskdistill.models.layers.relative_position import relative_position_index

CONFIGS = Path(__file__).parents[2] / 'configs'
PRETRAINING = 'pretrain/maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k'
CLASSIFIER = 'finetune/vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k'
LINEAR_PROBE = 'finetune/vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k'
SEGMENTOR = 'segmentation/vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512'


def small(name, **backbone):
    cfg = Config.fromfile(CONFIGS / f'{name}.py', format_python_code=False)
    shrink_recipe(cfg)
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.backbone.update(backbone, drop_path_rate=0.0)
    return cfg


def measured(cfg, batch, precision, share):
    """Run real steps; return the bytes kept for backward and the peak of a step."""
    model = build_without_values(cfg)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)

    def make_batch():
        return random_batch(cfg, model, batch, share)

    def step(kept=None):
        training_step(model, make_batch, precision, kept)

    if precision == 'fp32':
        own = [*model.parameters(), *model.buffers()]
        kept = kept_bytes(lambda: model.loss(**make_batch()), own)
    else:
        counter = KeptBytes(model, getattr(model, 'teacher', None))
        step(counter)
        kept = counter.total
    step()  # Caches are filled now.
    model.zero_grad()
    return kept, peak_bytes(step, torch.device('cpu'))


@pytest.mark.parametrize(
    'name, with_cp',
    [
        (PRETRAINING, False),
        (PRETRAINING, True),
        (CLASSIFIER, False),
        (CLASSIFIER, True),
        (LINEAR_PROBE, False),
        (SEGMENTOR, False),
        (SEGMENTOR, True),
    ],
)
def test_prediction_is_what_a_step_on_a_cpu_needs(name, with_cp):
    """Kept activations exactly, the peak within 3 %.

    The forward pass of a frozen backbone keeps nothing, and its peak is overestimated.
    """
    cfg = small(name, with_cp=with_cp)
    memory = predict_memory(cfg, batch=4, precision='fp32')
    kept, peak = measured(cfg, 4, 'fp32', 75 / 196)
    assert memory.activations == kept
    tolerance = 0.2 if name == LINEAR_PROBE else 0.03
    assert memory.step == pytest.approx(peak, rel=tolerance)


@pytest.mark.parametrize('name', [PRETRAINING, SEGMENTOR])
def test_prediction_is_right_in_mixed_precision(name):
    """By autocast's rules for CUDA, which a real step on the CPU can follow, too."""
    cfg = small(name)
    memory = predict_memory(cfg, batch=4, precision='bf16')
    assert memory == predict_memory(cfg, batch=4, precision='fp16')
    kept, peak = measured(cfg, 4, 'bf16', 75 / 196)
    # Some operators of the CPU keep a few numbers more in bfloat16.
    assert memory.activations == pytest.approx(
        kept, rel=1e-3 if name == SEGMENTOR else 0
    )
    assert memory.activations < 0.85 * predict_memory(cfg, 4, 'fp32').activations
    if name == PRETRAINING:
        # The CPU's convolutions in bfloat16 take memory that those of a GPU do not.
        assert memory.step == pytest.approx(peak, rel=0.03)


def test_small_vit_at_the_size_of_the_recipe():
    """ViT-Ti at 224 pixels, with the recipe's teacher of one block."""
    cfg = small(PRETRAINING, arch='tiny', with_cp=False)
    cfg.model.head.in_channels = 192
    memory = predict_memory(cfg, batch=3, precision='fp32')
    kept, peak = measured(cfg, 3, 'fp32', 75 / 196)
    assert memory.activations == kept
    assert memory.step == pytest.approx(peak, rel=0.03)
    checkpointed = predict_memory(cfg, batch=3, precision='fp32', with_cp=True)
    assert checkpointed.activations < 0.2 * kept


def test_autocast_follows_the_lists_of_cuda():
    """Norms run in float32, interpolation does not."""
    found = {}

    class Model(nn.Module):
        def loss(self, inputs):
            x = nn.functional.linear(inputs, torch.ones(8, 8, requires_grad=True))
            found['linear'] = x.dtype
            found['norm'] = nn.functional.layer_norm(x, (8,)).dtype
            found['softmax'] = x.softmax(-1).dtype
            maps = nn.functional.interpolate(x[None], scale_factor=2, mode='bilinear')
            found['interpolate'] = maps.dtype
            return dict(loss=maps.mean())

    training_step(Model(), lambda: dict(inputs=torch.ones(1, 8, 8)), 'bf16')
    assert found == dict(
        linear=torch.bfloat16,
        norm=torch.float32,
        softmax=torch.float32,
        interpolate=torch.bfloat16,
    )


def test_parts_of_attention_are_those_of_a_gpu(monkeypatch):
    """Its backward pass computes the weights of all samples at once, not some."""
    cfg = small(CLASSIFIER, arch=dict(ARCH, num_layers=1))
    whole = predict_memory(cfg, batch=8).step
    monkeypatch.setattr(memory_saving, 'GPU_PART', memory_saving.CPU_PART)
    # 3 heads x 197 x 197 weights of each sample, of which at least one copy
    assert whole - predict_memory(cfg, batch=8).step > 4 * 3 * 197**2 * 4


def test_parts_of_the_memory_add_up():
    memory = Memory(1, 20, 300, 4000, 50000, 600000, batch=2)
    assert memory.peak == 600321
    assert memory.distributed_peak == 604321


def test_parameters_teacher_and_hooks_are_counted():
    cfg = small(PRETRAINING)
    memory = predict_memory(cfg, batch=2)
    model = build_without_values(cfg)
    trained = sum(p.numel() for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    assert memory.parameters == 4 * trained + buffers
    assert memory.teacher == sum(p.nbytes for p in model.teacher.parameters())
    assert memory.gradients == 4 * trained and memory.optimizer == 8 * trained
    cfg.custom_hooks = [dict(type='EMAHook')]
    assert predict_memory(cfg, batch=2).optimizer == 8 * trained + memory.parameters


def test_frozen_parameters_need_neither_gradients_nor_state():
    """Nor are activations kept, even where the backbone stores them on the way."""
    for with_cp in (False, True):
        memory = predict_memory(small(LINEAR_PROBE), batch=2, with_cp=with_cp)
        trained = 1000 * 24 + 1000
        assert memory.gradients == memory.optimizer == 4 * trained
        assert memory.activations < 100 * 1000


def test_gradients_that_accumulate_are_there_from_the_beginning():
    """The gradients of a step before, when the activations are at their largest."""
    cfg = small(CLASSIFIER)
    alone = predict_memory(cfg, batch=16)
    cfg.optim_wrapper.accumulative_counts = 2
    both = predict_memory(cfg, batch=16)
    assert both.activations == alone.activations
    assert alone.step < both.step < alone.step + 1.01 * alone.gradients


@pytest.mark.parametrize(
    'optimizer, expected',
    [
        (dict(type='AdamW', lr=1e-3, fused=True), 8),
        (dict(type='SGD', lr=1e-3), 0),
        (dict(type='SGD', lr=1e-3, momentum=0.9), 4),
    ],
)
def test_state_of_optimizers(optimizer, expected):
    init_default_scope('mmengine')
    assert state_bytes(dict(optimizer=optimizer)) == expected


@pytest.mark.parametrize(
    'wrapper, expected',
    [
        (dict(), 'fp32'),
        (dict(type='OptimWrapper'), 'fp32'),
        (dict(type='mmmaskdistill.Bfloat16OptimWrapper'), 'bf16'),
        (dict(type='mmengine.AmpOptimWrapper', dtype='bfloat16'), 'bf16'),
        (dict(type='AmpOptimWrapper', dtype='bfloat16'), 'bf16'),
        (dict(type='AmpOptimWrapper', loss_scale='dynamic'), 'fp16'),
    ],
)
def test_precision_of_a_config(wrapper, expected):
    assert recipe_precision(ConfigDict(optim_wrapper=wrapper)) == expected


def test_prediction_leaves_no_tensor_without_values_behind():
    predict_memory(small(PRETRAINING), batch=2)
    index = relative_position_index((14, 14), torch.device('cpu'))
    assert type(index) is torch.Tensor and index[0, 0] == 27 * 27 + 2


def test_losses_that_depend_on_values_are_refused():
    """The mask is drawn from the teacher's attention, so its size is not known."""
    cfg = Config.fromfile(CONFIGS / 'unified/milan.py', format_python_code=False)
    cfg.model.teacher.layer = 0
    with pytest.raises(ConfigError, match='loss of MaskDistill depends on values'):
        predict_memory(cfg, batch=2)


def test_other_models_are_refused():
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='ImageClassifier', backbone=dict(type='LeNet5')),
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    )
    with pytest.raises(ConfigError, match='the model is a ImageClassifier: expected'):
        predict_memory(cfg)
