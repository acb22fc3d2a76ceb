import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmmaskdistill.apis.pretraining import init_pretraining, show_pretraining
from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.registry import MODELS

CONFIG = Config(
    dict(
        default_scope='mmpretrain',
        model=dict(
            type='mmmaskdistill.MaskDistill',
            data_preprocessor=dict(
                type='mmmaskdistill.TwoViewDataPreprocessor',
                mean=[124, 116, 104],
                std=[58, 57, 57],
                second_mean=[127, 127, 127],
                second_std=[128, 128, 128],
                to_rgb=True),
            backbone=dict(
                type='mmmaskdistill.MaskDistillViT',
                arch=dict(
                    embed_dims=48,
                    num_layers=1,
                    num_heads=3,
                    feedforward_channels=96),
                img_size=64),
            teacher=dict(
                type='mmmaskdistill.TimmTeacher',
                model_name='test_vit',
                pretrained='random',
                img_size=64),
            normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
            head=dict(
                type='mmmaskdistill.LinearHead',
                in_channels=48,
                out_channels=64),
            loss=dict(type='mmmaskdistill.SmoothL1Loss')),
        train_dataloader=dict(
            dataset=dict(pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='RandomResizedCrop', scale=64),
                dict(
                    type='BEiTMaskGenerator',
                    input_size=(4, 4),
                    num_masking_patches=6,
                    min_num_patches=2),
                dict(type='PackInputs')
            ]))))


@pytest.fixture
def checkpoint(tmp_path):
    model = MODELS.build(CONFIG.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


def test_weights_are_the_checkpoints(checkpoint):
    model = init_pretraining(CONFIG, checkpoint)
    state = torch.load(checkpoint)['state_dict']
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key])
    assert not model.training


def test_what_is_not_a_pretraining_is_refused(checkpoint, tmp_path):
    state = torch.load(checkpoint)['state_dict']
    del state['head.weight']
    torch.save(dict(state_dict=state), tmp_path / 'b.pth')
    with pytest.raises(CheckpointError, match='head.weight'):
        init_pretraining(CONFIG, str(tmp_path / 'b.pth'))
    other = Config(dict(model=CONFIG.model.backbone))
    with pytest.raises(ConfigError, match='is a MaskDistillViT'):
        init_pretraining(other, checkpoint)


def test_picture_shows_what_the_model_was_given(checkpoint, tmp_path,
                                                monkeypatch):
    paths = []
    for i, colour in enumerate(((200, 30, 10), (20, 40, 220))):
        paths.append(str(tmp_path / f'{i}.png'))
        Image.new('RGB', (90, 80), colour).save(paths[-1])
    drawn = {}
    monkeypatch.setattr(
        'mmmaskdistill.apis.pretraining.draw_pretraining',
        lambda *args: drawn.update(zip(
            ('images', 'masks', 'teacher', 'student', 'out'), args)))
    model = init_pretraining(CONFIG, checkpoint)
    show_pretraining(model, paths, 'out.png')
    # Colours are drawn as RGB, whatever the pipeline loads them as.
    np.testing.assert_array_equal(drawn['images'][0, 5, 5], (200, 30, 10))
    np.testing.assert_array_equal(drawn['images'][1, 5, 5], (20, 40, 220))
    assert drawn['masks'].shape == (2, 4, 4) and drawn['masks'].sum() == 12
    assert drawn['teacher'].shape == drawn['student'].shape == (2, 4, 4, 64)
    hidden = ~drawn['student'].isnan().any(-1)
    assert torch.equal(hidden, drawn['masks'])
