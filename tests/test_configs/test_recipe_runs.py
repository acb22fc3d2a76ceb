"""Every recipe runs, at reduced size, on data in the usual folder layout."""

from itertools import product

import numpy as np
import torch
import yaml
from helpers.small_configs import ARCH, Start, shrink_recipe

from mmmaskdistill.apis.configs import build_runner
from mmmaskdistill.models import MaskDistillViT


def test_recipe_trains_for_two_iterations(name, recipe, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    cfg = recipe(name)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = name
    shrink_recipe(cfg)
    downstream = 'teacher' not in cfg.model
    if downstream:
        backbone = cfg.model.backbone
        student = MaskDistillViT(ARCH, patch_size=backbone.patch_size)
        student.init_weights()
        backbone.init_cfg.checkpoint = str(tmp_path / 'student.pth')
        torch.save(
            {f'backbone.{k}': v for k, v in student.state_dict().items()},
            backbone.init_cfg.checkpoint,
        )
    runner = build_runner(cfg)
    start = Start()
    runner.register_hook(start)
    runner.train()
    assert runner.iter == 2
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    if downstream:
        score = 'mIoU' if 'decode_head' in cfg.model else 'accuracy/top1'
        score = runner.message_hub.get_scalar(f'val/{score}').current()
        assert 0 <= score <= 100

    changed = {
        k
        for k, v in runner.model.named_parameters()
        if not torch.equal(v, start.weights[k])
    }
    if 'linear' in name:
        assert changed == {'head.fc.weight', 'head.fc.bias'}
    else:
        assert 'backbone.blocks.0.attn.qkv.weight' in changed


def test_downstream_recipes_start_from_the_last_pretraining_epoch(names, recipe):
    epochs = {
        name: recipe(name).train_cfg.max_epochs
        for name in names
        if name.startswith('maskdistill')
    }
    kinds, continued = ('linear', 'upernet', 'coslr'), []
    for name in set(names) - set(epochs):
        start = recipe(name).model.backbone.init_cfg.checkpoint
        folder, pretraining, checkpoint = start.split('/')
        assert folder == 'work_dirs'
        assert checkpoint == f'epoch_{epochs[pretraining]}.pth'
        student, source = name.split('_')[:2]
        *teacher, duration = source.removeprefix('maskdistill-').rsplit('-', 1)
        assert f'_{student}_' in pretraining
        assert f'-{duration}_' in pretraining
        if teacher:
            assert f'_{teacher[0]}_' in pretraining
        kind = next(k for k in kinds if k in name)
        continued.append((pretraining, kind))
    # Each pre-training is followed by a linear probe, segmentation and fine-tuning.
    assert sorted(continued) == sorted(product(epochs, kinds))


def test_model_index_lists_all_recipes(names, request):
    root = request.config.rootpath
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    models = [
        model
        for path in index['Import']
        for model in yaml.safe_load((root / path).read_text())['Models']
    ]
    listed = {model['Name']: root / model['Config'] for model in models}
    assert len(listed) == len(models)
    for model in models:
        assert listed[model['Name']].is_file()
        assert set(model.get('Downstream', [])) <= set(listed)
    assert {name: listed.get(name, root).stem for name in names} == {
        name: name for name in names
    }
