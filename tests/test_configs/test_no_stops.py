"""In a training step of the configs the host never waits for the GPU.

The GPU is a fake one, see ``FakeGPU``. Batches are copied to it without waiting, as
with ``prefetch = True``. What is left out: the optimizer's step.
"""

from pathlib import Path

import pytest
import torch
from helpers.fake_gpu import HostStop, StaticShapes
from helpers.small_configs import (
    WithoutDraws,
    shrink_method,
    shrink_recipe,
    teachers_of,
)
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.models.decode_heads import decode_head

from mmmaskdistill.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSIFIER = 'finetune/vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k'
LINEAR_PROBE = 'finetune/vit-b16_maskdistill-300e_8xb2048-linear-amp-coslr-90e_in1k'
SEGMENTOR = 'segmentation/vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512'
PRETRAINING = sorted(
    f'{folder}/{path.stem}'
    for folder in ('pretrain', 'unified')
    for path in (CONFIGS / folder).glob('*.py')
    # MILAN draws its mask from the teacher's attention, on the GPU.
    if path.stem != 'milan'
)


@pytest.fixture
def prepare(data, monkeypatch):
    """Build a small model of a config on the CPU, and load a batch of its data."""
    monkeypatch.chdir(data)

    def prepare(name, **backbone):
        cfg = Config.fromfile(CONFIGS / f'{name}.py', format_python_code=False)
        init_default_scope(cfg.default_scope)
        (shrink_method if name.startswith('unified/') else shrink_recipe)(cfg)
        for teacher in teachers_of(cfg.model) if 'teacher' in cfg.model else []:
            if teacher.type == 'mmmaskdistill.TimmTeacher':
                # The last of two blocks computes hidden patches only, as in the recipe.
                teacher.layer = 1
        cfg.model.backbone.pop('init_cfg', None)
        cfg.model.backbone.update(backbone)
        if 'data_preprocessor' in cfg:
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        with WithoutDraws():
            model = MODELS.build(cfg.model)
        loader = Runner.build_dataloader(cfg.train_dataloader)
        return model.train(), next(iter(loader))

    return prepare


@pytest.fixture(autouse=True)
def no_pixel_accuracy(monkeypatch):
    """Leave out the pixel accuracy that mmseg's heads log next to their loss.

    It indexes predictions and labels by a bool mask, so the host waits twice for each
    of the two heads, four times in a step.
    """
    monkeypatch.setattr(
        decode_head, 'accuracy', lambda logits, labels, **kwargs: logits.new_zeros(1)
    )


@pytest.mark.parametrize('name', [*PRETRAINING, CLASSIFIER, LINEAR_PROBE, SEGMENTOR])
def test_host_does_not_wait_for_the_forward_pass(name, prepare, fake_gpu):
    model, batch = prepare(name)
    with fake_gpu as gpu, gpu.autocast():
        gpu.place(model)
        model.data_preprocessor._non_blocking = True
        for _ in range(2):
            # Caches are filled in the first step.
            gpu.waiting_copies.clear()
            batch_on_gpu = model.data_preprocessor(batch, True)
            losses = model._run_forward(batch_on_gpu, mode='loss')
            if 'data2vec' in name:
                # Until its first update, the model checks whether anybody updates it.
                model.teacher.update(model.backbone)
        loss, _ = model.parse_losses(losses)
    assert loss.device.type == 'cuda' and loss.requires_grad
    assert gpu.products[torch.bfloat16]
    # mmpretrain's tokenizer turns autocast off for its last layer.
    assert gpu.products[torch.float32] == 2 * (name == 'unified/beitv2')
    # timm's DINOv3 copies the coordinates of the patches in every forward pass, and
    # mmseg's data preprocessor the order of the channels.
    allowed = {
        'unified/maskdistill_dinov3': 'pos_embed_sincos',
        SEGMENTOR: 'mmseg/models/data_preprocessor.py',
    }.get(name)
    assert [c for c in gpu.waiting_copies if not (allowed and allowed in c)] == []


@pytest.mark.parametrize(
    'name',
    [
        'pretrain/maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-800e_in1k',
        'unified/mae',
        'unified/eva',
        'unified/feature_distillation',
        'unified/beitv2',
        CLASSIFIER,
        LINEAR_PROBE,
        SEGMENTOR,
    ],
)
def test_backward_pass_does_not_depend_on_values(name, prepare):
    model, batch = prepare(name)
    losses = model._run_forward(model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    with StaticShapes():
        loss.backward()


def test_pixel_accuracy_of_mmseg_stops(prepare, fake_gpu, monkeypatch):
    """If this fails, mmseg has changed, and its accuracy need not be left out."""
    model, batch = prepare(SEGMENTOR, drop_path_rate=0.0)
    monkeypatch.undo()
    with fake_gpu as gpu, gpu.autocast():
        gpu.place(model)
        batch = model.data_preprocessor(batch, True)
        with pytest.raises(HostStop, match='index.Tensor at mmseg/.*accuracy.py'):
            model._run_forward(batch, mode='loss')
