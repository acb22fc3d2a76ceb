"""Each cell of an ablation changes the intended parts of a config."""

import re
from copy import deepcopy

import pytest
from helpers import tiny
from mmengine.config import Config

from mmmaskdistill.apis.ablation import make_cells
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

GRID = 4
CONFIG = dict(
    default_scope='mmpretrain',
    model=dict(
        type='mmmaskdistill.MaskDistill',
        data_preprocessor=dict(
            type='mmmaskdistill.TwoViewDataPreprocessor',
            mean=[124, 116, 104],
            std=[58, 57, 57],
            second_mean=[127, 127, 127],
            second_std=[128, 128, 128],
        ),
        backbone=dict(tiny.STUDENT, arch=dict(tiny.ARCH, num_layers=6)),
        teacher=tiny.TEACHER,
        normalizer=dict(type='mmmaskdistill.LayerNormalizer', eps=1e-5),
        head=tiny.LINEAR,
        loss=dict(type='mmmaskdistill.SmoothL1Loss', beta=2.0),
    ),
    optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
    train_dataloader=dict(
        dataset=dict(
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(
                    type='mmmaskdistill.BlockMaskGenerator',
                    input_size=GRID,
                    num_masking_patches=6,
                    min_num_patches=2,
                ),
                dict(type='PackInputs'),
            ]
        )
    ),
)


def config(**model):
    cfg = Config(deepcopy(CONFIG))
    cfg.model = {**cfg.model, **model}
    return cfg


def cells(axes, cfg=None, **kwargs):
    """Make the cells of ``axes``, none of which may be refused.

    Returns:
        dict[str, Config]: Each cell's config, by the cell's name.
    """
    made = make_cells(cfg or config(), axes, **kwargs)
    assert not any(cell.refusal for cell in made), made
    return {cell.name: cell.config for cell in made}


def mask(cfg):
    return cfg.train_dataloader.dataset.pipeline[1]


def test_axes_are_combined_or_varied_one_at_a_time():
    axes = dict(normalizer=['layer_norm', 'none', 'l2'], loss=['smooth_l1', 'l1'])
    product = [cell.settings for cell in make_cells(config(), axes)]
    assert len(product) == 6
    assert dict(normalizer='l2', loss='l1') in product
    single = [cell.name for cell in make_cells(config(), axes, True)]
    assert single == ['as_configured', 'normalizer=none', 'normalizer=l2', 'loss=l1']


def test_values_of_the_config_itself_change_nothing():
    made = cells(
        dict(
            teacher=['test_vit'],
            normalizer=['layer_norm'],
            loss=['smooth_l1'],
            mask=['block'],
            ratio=['0.4'],
        )
    )
    assert made.keys() == {'as_configured'}
    assert made['as_configured']._cfg_dict == config()._cfg_dict


def test_normalizer_and_loss_axes_replace_the_parts():
    made = cells(
        dict(
            normalizer=['none', 'batch_norm', 'instance_norm', 'l2'],
            loss=['l1', 'mse', 'cosine'],
        )
    )
    assert len(made) == 12
    model = made['normalizer=batch_norm,loss=cosine'].model
    assert model.normalizer == dict(type='mmmaskdistill.BatchNormalizer')
    assert model.loss == dict(type='mmpretrain.CosineSimilarityLoss')


def test_mask_and_ratio_axes_change_the_mask_generator():
    made = cells(dict(mask=['block', 'random', 'attention'], ratio=['0.4', '0.75']))
    assert mask(made['ratio=0.75']) == dict(mask(config()), num_masking_patches=12)
    assert mask(made['mask=random']) == dict(
        type='mmmaskdistill.UniformMaskGenerator',
        input_size=GRID,
        num_masking_patches=6,
    )
    attention = made['mask=attention,ratio=0.75']
    assert mask(attention).type == 'mmmaskdistill.GumbelNoise'
    assert attention.model.masking == dict(
        type='mmmaskdistill.AttentionMask', num_masking_patches=12
    )
    pack = attention.train_dataloader.dataset.pipeline[-1]
    assert pack == dict(type='PackInputs', algorithm_keys=['noise'])
    back = cells(dict(mask=['block']), attention)['mask=block']
    assert back.train_dataloader.dataset.pipeline[-1] == dict(type='PackInputs')


def test_mask_none_shows_and_predicts_all_patches():
    made = cells(dict(mask=['none']))['mask=none']
    assert mask(made) == dict(type='mmmaskdistill.NoMaskGenerator', input_size=GRID)
    assert made.model.predict == 'all'
    assert made.model.backbone.type == 'mmmaskdistill.AllTokensViT'
    # Another mask undoes the changes that mask=none has made.
    made = cells(dict(mask=['random'], ratio=['0.5']), made)
    (made,) = made.values()
    assert made.model.predict == 'hidden'
    assert mask(made).num_masking_patches == 8


def test_ratios_of_mask_none_are_the_same_cell():
    made = make_cells(config(), dict(mask=['block', 'none'], ratio=['0.4', '0.75']))
    assert [cell.refusal for cell in made] == [
        '',
        '',
        '',
        'the same config as mask=none, ratio=0.4',
    ]


def test_ratio_hides_whole_squares():
    cfg = config()
    cfg.train_dataloader.dataset.pipeline[1] = dict(
        type='mmmaskdistill.UniformMaskGenerator',
        input_size=GRID,
        num_masking_patches=8,
        unit=2,
    )
    (made,) = cells(dict(ratio=['0.8']), cfg).values()
    assert mask(made).num_masking_patches == 12


@pytest.mark.parametrize(
    'name, channels', [('pixel', 768), ('hog', 108), ('momentum', 24)]
)
def test_teacher_axis_sets_head_channels_and_normalization(name, channels):
    (made,) = cells(dict(teacher=[name])).values()
    assert made.model.head.out_channels == channels
    view = made.model.data_preprocessor
    assert (view.second_mean, view.second_std) == (view.mean, view.std)


def test_teacher_axis_adds_and_removes_the_hook_of_a_momentum_teacher():
    other = dict(type='EMAHook')
    cfg = config()
    cfg.custom_hooks = [other]
    (momentum,) = cells(dict(teacher=['momentum']), cfg).values()
    hook = dict(type='mmmaskdistill.MomentumTeacherHook')
    assert momentum.custom_hooks == [other, hook]
    (same,) = cells(dict(teacher=['momentum']), momentum).values()
    assert same.custom_hooks == [other, hook]
    (pixels,) = cells(dict(teacher=['pixel']), momentum).values()
    assert pixels.custom_hooks == [other]
    (plain,) = cells(dict(teacher=['pixel'])).values()
    assert 'custom_hooks' not in plain


def test_timm_teachers_set_head_channels_and_normalization():
    cfg = config()
    cfg.model.teacher = dict(
        type='mmmaskdistill.CachedTeacher', teacher=cfg.model.teacher
    )
    (cell,) = make_cells(cfg, dict(teacher=['vit_tiny_patch16_224']))
    model = cell.config.model
    assert model.teacher == dict(
        type='mmmaskdistill.CachedTeacher',
        teacher=dict(
            type='mmmaskdistill.TimmTeacher',
            model_name='vit_tiny_patch16_224',
            img_size=64,
        ),
    )
    assert model.head.out_channels == 192
    assert model.data_preprocessor.second_mean == [127.5] * 3


def test_parts_that_do_not_fit_are_refused_with_a_reason():
    made = make_cells(config(), dict(loss=['smooth_l1', 'cross_entropy']))
    assert made[0].refusal == ''
    assert 'use SmoothL1Loss' in made[1].refusal
    (made,) = make_cells(config(), dict(ratio=['0.01']))
    assert 'num_masking_patches=0' in made.refusal


def test_any_config_key_can_be_an_axis():
    key = 'optim_wrapper.optimizer.lr'
    made = cells({key: ['1e-3', '2e-3'], 'model.loss.beta': ['2.', '1.']})
    assert made.keys() == {
        'as_configured',
        'model.loss.beta=1.',
        f'{key}=2e-3',
        f'{key}=2e-3,model.loss.beta=1.',
    }
    assert made[f'{key}=2e-3'].optim_wrapper.optimizer.lr == 2e-3
    with pytest.raises(ConfigError, match="no 'modle'.*'modle.loss.beta'"):
        cells({'modle.loss.beta': ['1.']})


@pytest.mark.parametrize(
    'axis, value',
    [
        ('normalizer', 'layernorm'),
        ('loss', 'huber'),
        ('mask', 'grid'),
        ('ratio', '40'),
        ('ratio', 'half'),
        ('teacher', 'clip'),
    ],
)
def test_unknown_values_are_refused_by_name(axis, value):
    with pytest.raises(ConfigError, match=f'{axis} {value!r}: expected'):
        make_cells(config(), {axis: [value]})


def test_values_given_twice_are_refused():
    with pytest.raises(ConfigError, match='twice'):
        make_cells(config(), dict(loss=['l1', 'l1']))


def test_heads_can_be_compared():
    key, names = (
        'model.head.type',
        ['mmmaskdistill.LinearHead', 'mmmaskdistill.MLPHead'],
    )
    made = cells({key: names})
    assert list(made) == ['as_configured', f'{key}={names[1]}']
    heads = [MODELS.build(cfg.model).head for cfg in made.values()]
    assert [type(head).__name__ for head in heads] == ['LinearHead', 'MLPHead']


def test_models_of_the_cells_can_be_built():
    for name, cfg in cells(dict(mask=['none', 'random'])).items():
        model = MODELS.build(cfg.model)
        assert model.predict == ('all' if name == 'mask=none' else 'hidden')


def test_weight_of_visible_patches_changes_loss_and_student():
    made = cells(dict(visible_weight=['0', '1', '0.3', '1-0']))
    assert made['as_configured']._cfg_dict == config()._cfg_dict
    for name, weight in (
        ('visible_weight=1', None),
        ('visible_weight=0.3', 0.3),
        ('visible_weight=1-0', dict(start=1, end=0)),
    ):
        model = made[name].model
        assert model.predict == 'all'
        assert model.backbone.type == 'mmmaskdistill.AllTokensViT'
        assert model.get('visible_weight') == weight
    back = cells(dict(visible_weight=['0']), made['visible_weight=0.3'])
    (back,) = back.values()
    assert back.model.predict == 'hidden' and 'visible_weight' not in back.model


def test_ratio_may_change_and_batches_may_be_unmasked():
    made = cells(dict(visible_weight=['1'], ratio=['0-0.5'], unmasked=['0', '0.25']))
    still, mixed = map(mask, made.values())
    assert still.num_masking_patches == dict(start=0, end=8)
    assert 'unmasked_batches' not in still and mixed.unmasked_batches == 0.25
    (none,) = cells(dict(visible_weight=['1'], ratio=['0'])).values()
    assert mask(none).type == 'mmmaskdistill.NoMaskGenerator'


def test_batches_without_a_mask_need_a_loss_of_visible_patches():
    for axes in (dict(unmasked=['0.5']), dict(ratio=['0-0.5'])):
        (made,) = make_cells(config(), axes)
        assert 'hides no patch in some batches' in made.refusal


@pytest.mark.parametrize(
    'axes, words',
    [
        (dict(ratio=['0.4-x']), "ratio '0.4-x': expected a number"),
        (dict(ratio=['0.4-1']), "ratio '0.4-1': expected the share"),
        (dict(visible_weight=['all']), "visible_weight 'all': expected a number"),
        (dict(unmasked=['1']), "unmasked '1': expected a share"),
        (dict(ratio=['0.4-']), "ratio '0.4-': expected a number"),
        (dict(visible_weight=['-1']), 'expected 0 or more'),
        (dict(visible_weight=['inf']), 'expected 0 or more'),
        ({'randomness.seed': ['0', '1']}, "'randomness.seed' cannot .* --seeds"),
    ],
)
def test_wrong_values_of_an_objective_are_refused(axes, words):
    with pytest.raises(ConfigError, match=words):
        make_cells(config(), axes)


def test_a_combination_sets_several_axes_and_keeps_the_names_of_the_cells():
    lengths = {'train_cfg.max_epochs': ['2', '7']}
    cfg = config()
    cfg.train_cfg = dict(max_epochs=3)
    alone = cells(dict(visible_weight=['1'], ratio=['0-0.5'], **lengths), cfg)
    together = cells(
        dict(
            combination=['as_configured', 'ratio=0-0.5,visible_weight=1', 'mask=none'],
            **lengths,
        ),
        cfg,
    )
    assert len(together) == 6
    for name, changed in alone.items():
        assert together[name]._cfg_dict == changed._cfg_dict
    for length in (2, 7):
        changed = together[f'mask=none,train_cfg.max_epochs={length}']
        assert mask(changed).type == 'mmmaskdistill.NoMaskGenerator'
        assert changed.train_cfg.max_epochs == length


@pytest.mark.parametrize(
    'axes, words',
    [
        (dict(combination=['mask']), "combination 'mask': expected AXIS=VALUE"),
        (dict(combination=['mask=all']), "mask 'all': expected one of"),
        (dict(combination=['no.key=1']), "no 'no'"),
        (dict(combination=['mask=none,mask=block']), 'mask is set twice'),
        (dict(combination=['mask=none'], mask=['block']), 'mask is set twice'),
    ],
)
def test_wrong_combinations_are_refused(axes, words):
    with pytest.raises(ConfigError, match=words):
        make_cells(config(), axes)


NO_MASK = dict(type='mmmaskdistill.NoMaskGenerator', input_size=GRID)


def unmasked_config():
    """A config without a mask, as those for own data are."""
    cfg = config(predict='all')
    cfg.model.backbone.type = 'mmmaskdistill.AllTokensViT'
    cfg.train_dataloader.dataset.pipeline[1] = dict(NO_MASK)
    return cfg


def test_ratio_gives_a_mask_to_a_config_without_one():
    made = cells(dict(ratio=['0', '0.5', '0-0.25']), unmasked_config())
    assert list(made) == ['as_configured', 'ratio=0.5', 'ratio=0-0.25']
    none, half, rising = made.values()
    assert mask(none) == NO_MASK
    assert mask(half).type == 'mmmaskdistill.BlockMaskGenerator'
    assert mask(half).num_masking_patches == 8
    assert mask(rising).num_masking_patches == dict(start=0, end=4)
    assert {cfg.model.predict for cfg in made.values()} == {'all'}
    (made,) = make_cells(unmasked_config(), dict(visible_weight=['0']))
    assert 'hides no patch' in made.refusal


@pytest.mark.parametrize(
    'kind, axes, words',
    [
        ('none', dict(unmasked=['0.5']), "unmasked '0.5' cannot .* NoMaskGenerator"),
        ('attention', dict(unmasked=['0.5']), 'GumbelNoise: set the axis mask'),
        ('attention', dict(ratio=['0.2-0.5']), "ratio '0.2-0.5' cannot be set"),
        ('SimMIM', dict(ratio=['0.5']), 'SimMIMMaskGenerator: add the axis mask'),
        ('SimMIM', dict(unmasked=['0.5']), 'SimMIMMaskGenerator: set the axis mask'),
    ],
)
def test_mask_generators_that_cannot_do_it_are_named(kind, axes, words):
    cfg = config()
    if kind == 'SimMIM':
        step = dict(type='SimMIMMaskGenerator', input_size=64, mask_ratio=0.4)
        cfg.train_dataloader.dataset.pipeline[1] = step
    else:
        (cfg,) = cells(dict(mask=[kind])).values()
    (made,) = make_cells(cfg, axes)
    assert re.search(words, made.refusal)


def test_all_training_data_get_the_same_mask():
    cfg = config()
    one = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset',
        datasets=[
            deepcopy(one),
            dict(type='RepeatDataset', times=2, dataset=deepcopy(one)),
        ],
    )
    made = cells(dict(ratio=['0.5'], mask=['random', 'none', 'attention']), cfg)
    for changed in made.values():
        first, second = changed.train_dataloader.dataset.datasets
        assert first.pipeline == second.dataset.pipeline != one.pipeline
    second = cfg.train_dataloader.dataset.datasets[1].dataset
    second.pipeline[1].num_masking_patches = 5
    (made,) = make_cells(cfg, dict(ratio=['0.5']))
    assert 'different mask generators' in made.refusal


def test_cells_are_told_apart_by_their_configs():
    made = make_cells(config(), dict(ratio=['0.5', '0.50', '5e-1', '0.51', '0.25']))
    assert [cell.refusal for cell in made] == [
        '',
        *['the same config as ratio=0.5'] * 3,
        '',
    ]
    cfg = config()
    cfg.note = dict(text='')
    long = 'a' * 300
    made = cells({'note.text': ['a b', 'a_b', long, long + 'b']}, cfg)
    assert [cfg.note.text for cfg in made.values()] == ['a b', 'a_b', long, long + 'b']
    assert max(map(len, made)) < 230
