from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import tiny
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
                to_rgb=True,
            ),
            **tiny.PARTS,
        ),
        train_dataloader=dict(
            dataset=dict(
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='RandomResizedCrop', scale=64),
                    dict(
                        type='BEiTMaskGenerator',
                        input_size=(4, 4),
                        num_masking_patches=6,
                        min_num_patches=2,
                    ),
                    dict(type='PackInputs'),
                ]
            )
        ),
    )
)


@pytest.fixture
def checkpoint(tmp_path):
    model = MODELS.build(CONFIG.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


def test_model_has_the_weights_of_the_checkpoint(checkpoint):
    model = init_pretraining(CONFIG, checkpoint)
    state = torch.load(checkpoint)['state_dict']
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key])
    assert not model.training


def test_other_checkpoints_and_configs_are_refused(checkpoint, tmp_path):
    state = torch.load(checkpoint)['state_dict']
    del state['head.weight']
    torch.save(dict(state_dict=state), tmp_path / 'b.pth')
    with pytest.raises(CheckpointError, match='head.weight'):
        init_pretraining(CONFIG, str(tmp_path / 'b.pth'))
    other = Config(dict(model=CONFIG.model.backbone))
    with pytest.raises(ConfigError, match='is a MaskDistillViT'):
        init_pretraining(other, checkpoint)


@pytest.fixture
def images(tmp_path):
    paths = []
    for i, color in enumerate(((200, 30, 10), (20, 40, 220))):
        paths.append(str(tmp_path / f'{i}.png'))
        Image.new('RGB', (90, 80), color).save(paths[-1])
    return paths


@pytest.fixture
def drawn(monkeypatch):
    """Replace ``draw_pretraining`` and record the arguments it is called with."""
    drawn = {}
    names = ('images', 'masks', 'pairs', 'errors', 'out')
    monkeypatch.setattr(
        'mmmaskdistill.visualization.draw_pretraining',
        lambda *args, **kwargs: drawn.update(zip(names, args), **kwargs),
    )
    return drawn


def test_picture_shows_the_inputs_of_the_model(checkpoint, images, drawn):
    model = init_pretraining(CONFIG, checkpoint)
    show_pretraining(model, images, 'out.png')
    # The images are drawn in RGB order; the pipeline loads them in BGR order.
    np.testing.assert_array_equal(drawn['images'][0, 5, 5], (200, 30, 10))
    np.testing.assert_array_equal(drawn['images'][1, 5, 5], (20, 40, 220))
    assert drawn['masks'].shape == (2, 4, 4) and drawn['masks'].sum() == 12
    ((teacher, student),) = drawn['pairs'].values()
    assert teacher.shape == student.shape == (2, 4, 4, 64)
    hidden = ~student.isnan().any(-1)
    assert torch.equal(hidden, drawn['masks'])
    assert torch.equal(hidden, ~drawn['errors'].isnan())
    assert drawn['student'] == 'student'


def variant(model, mask=None):
    """Return CONFIG with other parts of the model and another mask generator."""
    config = deepcopy(CONFIG)
    config.model = {**config.model, **deepcopy(model)}
    if mask:
        pipeline = config.train_dataloader.dataset.pipeline
        pipeline[2] = mask
        if mask is NOISE:
            pipeline[3].algorithm_keys = ['noise']
    return config


STUDENT = dict(CONFIG.model.backbone)
VISIBLE = dict(STUDENT, type='mmmaskdistill.VisibleViT')
DECODER = dict(
    type='mmmaskdistill.DecoderHead',
    in_channels=24,
    out_channels=64,
    grid=4,
    embed_dims=16,
    num_layers=1,
    num_heads=2,
)
CODES = dict(
    teacher=dict(
        type='mmmaskdistill.DALLETeacher',
        img_size=32,
        pretrained='random',
        vocab_size=50,
        width=8,
    ),
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    head=dict(type='mmmaskdistill.CodebookHead', in_channels=24, vocab_size=50),
    loss=dict(type='mmmaskdistill.CrossEntropyLoss'),
)
TEACHER = dict(CONFIG.model.teacher)
HEAD = dict(CONFIG.model.head)
NORMALIZER = dict(CONFIG.model.normalizer)
NO_MASK = dict(type='mmmaskdistill.NoMaskGenerator', input_size=4)
NOISE = dict(type='mmmaskdistill.GumbelNoise', input_size=4)
UNIFORM = dict(
    type='mmmaskdistill.UniformMaskGenerator', input_size=4, num_masking_patches=6
)
COARSE = dict(UNIFORM, input_size=2, num_masking_patches=1)
METHODS = dict(
    codes=variant(
        dict(
            CODES,
            backbone=dict(
                STUDENT,
                type='mmmaskdistill.PatchAggregationViT',
                arch=dict(CONFIG.model.backbone.arch, num_layers=2),
                early_layers=1,
            ),
        )
    ),
    pixels_decoded=variant(
        dict(
            backbone=VISIBLE,
            teacher=dict(type='mmmaskdistill.PixelTeacher', img_size=64),
            normalizer=dict(type='mmmaskdistill.PatchPixelNormalizer'),
            head=dict(DECODER, out_channels=768),
            loss=dict(type='mmmaskdistill.MSELoss'),
        ),
        UNIFORM,
    ),
    teachers_mask_prompts=variant(
        dict(
            backbone=VISIBLE,
            head=dict(DECODER, type='mmmaskdistill.PromptDecoderHead'),
            loss=dict(type='mmpretrain.CosineSimilarityLoss'),
            predict='all',
            masking=dict(type='mmmaskdistill.AttentionMask', num_masking_patches=9),
        ),
        NOISE,
    ),
    no_mask=variant(
        dict(backbone=dict(STUDENT, type='mmmaskdistill.AllTokensViT'), predict='all'),
        NO_MASK,
    ),
    two_teachers=variant(
        dict(
            teacher=dict(
                type='mmmaskdistill.TeacherList',
                teachers=[TEACHER, dict(type='mmmaskdistill.HOGTeacher', img_size=64)],
                normalizers=[NORMALIZER] * 2,
            ),
            normalizer=dict(type='mmmaskdistill.NoNormalizer'),
            head=dict(
                type='mmmaskdistill.HeadList',
                heads=[HEAD, dict(HEAD, out_channels=108)],
            ),
            loss=dict(
                type='mmmaskdistill.LossList',
                losses=[dict(type='mmmaskdistill.SmoothL1Loss')] * 2,
                channels=[64, 108],
                weights=[1.0, 0.5],
            ),
        )
    ),
    swin=variant(
        dict(
            backbone=dict(
                type='mmmaskdistill.MaskedSwin',
                arch=dict(embed_dims=16, depths=[1] * 4, num_heads=[1, 1, 2, 2]),
                img_size=64,
                pad_small_map=True,
            ),
            teacher=dict(type='mmmaskdistill.PixelTeacher', patch_size=32, img_size=64),
            head=dict(HEAD, in_channels=128, out_channels=3072),
        ),
        COARSE,
    ),
    cnn=variant(
        dict(
            backbone=dict(
                type='mmmaskdistill.MaskedTimm', model_name='test_resnet', img_size=64
            ),
            teacher=dict(type='mmmaskdistill.PixelTeacher', patch_size=32, img_size=64),
            head=dict(HEAD, in_channels=96, out_channels=3072),
        ),
        COARSE,
    ),
)


@pytest.mark.parametrize('name', METHODS)
def test_mean_of_drawn_errors_is_the_loss(name, images, drawn):
    """The mean of the drawn errors is the loss, also without a checkpoint."""
    if name == 'codes':
        # The stride of DALL-E's tokenizer is half the student's.
        METHODS[name].train_dataloader.dataset.pipeline[1] = dict(
            type='mmmaskdistill.RandomJitteredCrop', scale=64, second_scale=32
        )
    model = init_pretraining(METHODS[name])
    assert not model.trained
    given = {}
    compare = model.compare

    def record(**data):
        given.update(data)
        return compare(**data)

    model.compare = record
    show_pretraining(model, images, 'out.png')
    loss = model(**given, mode='loss')['loss'].detach()
    torch.testing.assert_close(drawn['errors'].nanmean(), loss)
    assert drawn['student'] == 'student, untrained'
    predicted = ~drawn['errors'].isnan()
    where = torch.ones_like(predicted) if model.predict == 'all' else drawn['masks']
    assert torch.equal(predicted, where)
    assert (
        drawn['masks'].sum((1, 2))
        == dict(teachers_mask_prompts=9, no_mask=0, swin=1, cnn=1).get(name, 6)
    ).all()
    for target, prediction in drawn['pairs'].values():
        assert target.shape == prediction.shape
        blank = prediction == -1 if name == 'codes' else prediction.isnan().any(-1)
        assert torch.equal(blank, ~predicted)
    assert len(drawn['pairs']) == (2 if name == 'two_teachers' else 1)


def test_views_are_normalized_as_in_training(images, drawn):
    """The preprocessor may stand next to the model, as in the recipes."""
    config = deepcopy(CONFIG)
    config.data_preprocessor = config.model.pop('data_preprocessor')
    model = init_pretraining(config)
    assert torch.equal(
        model.data_preprocessor.mean.flatten(), torch.tensor([124.0, 116.0, 104.0])
    )
