"""Adapters of LoRA are merged into the weights that they adapt, never left out."""

import re
import runpy
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import trained
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmmaskdistill.apis import load_embedder, load_model
from mmmaskdistill.apis.exporting import write_folder
from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT

PUBLISH = Path(__file__).parents[3] / 'tools/model_converters/publish_model.py'
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
TARGETS = [dict(type='qkv', alpha=6), dict(type=r'blocks\.0\.mlp\.fc1', rank=3)]


def adapted(task, start, prefix=None):
    """A config with adapters in its backbone."""
    config = getattr(trained, task)().to_dict()
    init = dict(type='Pretrained', checkpoint=str(start), prefix=prefix)
    config['model']['backbone'] = dict(
        type='mmpretrain.LoRAModel',
        module=dict(config['model']['backbone'], init_cfg=start and init),
        alpha=4,
        rank=2,
        targets=TARGETS,
    )
    return Config(config)


@pytest.fixture
def start(tmp_path):
    """The weights from which a run with adapters starts."""
    vit = MaskDistillViT(**{k: v for k, v in trained.BACKBONE.items() if k != 'type'})
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(vit.state_dict(), tmp_path / 'start.pth')
    return tmp_path / 'start.pth'


def train(config, path):
    """Write what a run writes, and return the model that mmpretrain computes."""
    settings = deepcopy(config.model)
    if config.get('data_preprocessor'):
        settings.data_preprocessor = config.data_preprocessor
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(settings)
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert not any('original_layer' in key for key in model.state_dict())
    meta = dict(cfg=config.pretty_text, dataset_meta=dict(classes=trained.CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_merged_model_is_the_adapted_one(task, start, tmp_path, monkeypatch):
    path = tmp_path / 'iter_1.pth'
    model = train(adapted(task, start), path)
    x = torch.randn(2, 3, 64, 64)
    expected = model.extract_feat(x)[-1]
    loaded = load_model(path, device='cpu')
    # What is written has all weights: those of the start are no longer needed.
    write_folder(loaded, str(tmp_path / 'hub'), str(path))
    monkeypatch.setattr(sys, 'argv', ['', str(path), str(tmp_path / 'a.safetensors')])
    runpy.run_path(str(PUBLISH), run_name='__main__')
    (published,) = tmp_path.glob('a-*.safetensors')
    start.unlink()
    published.rename(tmp_path / 'moved')
    others = [load_model(tmp_path / name, device='cpu') for name in ('hub', 'moved')]
    for found in (loaded, *others):
        assert type(found.model.backbone) is MaskDistillViT
        assert found.classes == trained.CLASSES
        torch.testing.assert_close(found.model.extract_feat(x)[-1], expected)
        assert type(found.predict(PICTURE)) is type(loaded.predict(PICTURE))
    embedder = load_embedder(tmp_path / 'moved', device='cpu')
    assert embedder(PICTURE, ['mean'])['mean'].shape == (1, 24)


def test_weights_under_adapters_are_never_random(start, tmp_path):
    path = tmp_path / 'a.pth'
    train(adapted('segmentation', start), path)
    content = torch.load(path)
    start.rename(tmp_path / 'elsewhere.pth')
    message = f"without the weights that they adapt: checkpoint '{start}' does not ex"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_model(path, device='cpu')
    moved = adapted('segmentation', tmp_path / 'elsewhere.pth')
    assert load_model(moved, path, device='cpu').task == 'segmentation'

    for given, message in (
        (None, 'its config names no file of these in model.backbone.module.init_cfg'),
        ('https://elsewhere.org/a.pth', 'nothing is downloaded for a checkpoint'),
    ):
        content['meta']['cfg'] = adapted('segmentation', given).pretty_text
        torch.save(content, tmp_path / 'b.pth')
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / 'b.pth', device='cpu')
    del content['state_dict']['backbone.module.blocks.1.attn.qkv.lora_up.weight']
    torch.save(content, tmp_path / 'c.pth')
    with pytest.raises(CheckpointError, match=r'not have the adapters \(LoRA\) of mod'):
        load_model(moved, tmp_path / 'c.pth', device='cpu')


def test_other_backbones_start_from_files_too(tmp_path):
    config = trained.classification()
    config.model.backbone = dict(
        type='VisionTransformer',
        arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
        img_size=64,
        out_type='cls_token',
    )
    vit = MODELS.build(dict(config.model.backbone, type='mmpretrain.VisionTransformer'))
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    start = {f'backbone.{key}': value for key, value in vit.state_dict().items()}
    torch.save(dict(state_dict=start), tmp_path / 'start.pth')
    init = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'start.pth'), prefix='backbone'
    )
    config.model.backbone = dict(
        type='LoRAModel',
        module=dict(config.model.backbone, init_cfg=init),
        alpha=4,
        rank=2,
        targets=[dict(type='qkv')],
    )
    model = train(config, tmp_path / 'a.pth')
    loaded = load_model(tmp_path / 'a.pth', device='cpu')
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        loaded.model.extract_feat(x)[0], model.extract_feat(x)[0]
    )


def test_models_that_do_not_save_all_weights_are_refused(tmp_path):
    def forget(module, state, *args):
        for key in [key for key in state if 'qkv' in key]:
            del state[key]

    @MODELS.register_module(force=True)
    class Forgetful(MaskDistillViT):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._register_state_dict_hook(forget)

    config = trained.classification()
    config.model.backbone.type = 'mmengine.Forgetful'
    path = trained.write(config, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'saves no backbone.blocks.0.attn.qkv'):
        load_model(path, device='cpu')


def test_adapters_of_peft_are_to_be_merged_first(tmp_path):
    peft = pytest.importorskip('peft')
    config = trained.classification()
    path = trained.write(config, tmp_path / 'a.pth')
    backbone = load_model(path, device='cpu').model.backbone
    wrapped = peft.get_peft_model(backbone, peft.LoraConfig(target_modules=['qkv']))
    content = torch.load(path)
    for key in list(content['state_dict']):
        if key.startswith('backbone.'):
            del content['state_dict'][key]
    for key, value in wrapped.state_dict().items():
        content['state_dict'][f'backbone.{key}'] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r'merge them \(merge_and_unload\) bef'):
        load_model(path, device='cpu')
