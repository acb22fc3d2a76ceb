"""configs/all_patches: the paper's recipes with other objectives, and nothing else."""

import pytest
from helpers.small_configs import shrink_recipe
from mmengine.registry import TRANSFORMS, DefaultScope

from mmmaskdistill.apis.configs import build_runner
from mmmaskdistill.datasets.draws import Place, at_place
from mmmaskdistill.models import AllTokensViT

HIDDEN = {
    'vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k': 75,
    'vit-l16_clip-l14_8xb256-amp-coslr-300e_in1k': 75,
    'vit-h14_clip-l14_8xb64-accum4-amp-coslr-300e_in1k': 102,
}


def pipeline(cfg):
    return cfg.train_dataloader.dataset.pipeline


@pytest.mark.parametrize('objective', ['no-mask', 'rising-mask'])
@pytest.mark.parametrize('name', HIDDEN)
def test_only_the_objective_differs_from_the_papers_recipe(objective, name, recipe):
    cfg, paper = recipe(f'{objective}_{name}'), recipe(f'maskdistill_{name}')
    assert cfg.model.pop('predict') == 'all'
    assert cfg.model.backbone.pop('type') == 'mmmaskdistill.AllTokensViT'
    assert paper.model.backbone.pop('type') == 'mmmaskdistill.MaskDistillViT'
    mask = dict(pipeline(paper)[2])
    assert mask['num_masking_patches'] == HIDDEN[name]
    mask = {
        'no-mask': dict(
            type='mmmaskdistill.NoMaskGenerator', input_size=mask['input_size']
        ),
        'rising-mask': dict(
            mask,
            num_masking_patches=dict(start=0, end=HIDDEN[name]),
            unmasked_batches=0.5,
        ),
    }[objective]
    for steps in (pipeline(cfg), cfg.pop('train_pipeline')):
        assert steps.pop(2) == mask
    for steps in (pipeline(paper), paper.pop('train_pipeline')):
        steps.pop(2)
    assert cfg._cfg_dict == paper._cfg_dict


@pytest.mark.parametrize('name', HIDDEN)
def test_the_mask_rises_to_the_papers_share_in_half_of_the_batches(name, recipe):
    step = pipeline(recipe(f'rising-mask_{name}'))[2]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        generator = TRANSFORMS.build(step)
    for progress in (0.0, 0.2, 0.5, 1.0):
        for uniform, share in ((0.49, 0), (0.5, progress)):
            with at_place(Place(progress, uniform)):
                mask = generator(dict(sample_idx=0))['mask']
            assert mask.sum() == round(share * HIDDEN[name])


@pytest.mark.parametrize('objective', ['no-mask', 'rising-mask'])
def test_a_recipe_trains(objective, recipe, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    cfg = recipe(f'{objective}_{next(iter(HIDDEN))}')
    cfg.work_dir, cfg.experiment_name = str(tmp_path), objective
    shrink_recipe(cfg)
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    assert isinstance(runner.model.backbone, AllTokensViT)
