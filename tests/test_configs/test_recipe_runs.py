"""Every recipe runs, at reduced size, on data in the usual folder layout."""

from itertools import product

import numpy as np
import torch
import yaml
from mmengine.hooks import Hook

from mmmaskdistill.apis.configs import build_runner, complete_dataloader
from mmmaskdistill.models import MaskDistillViT

ARCH = dict(embed_dims=24, num_layers=4, num_heads=3, feedforward_channels=48)
SMALLER = {(512, 512): (64, 64), (341, 341): (43, 43), (2048, 512): (256, 64)}


def smaller(node):
    """Replace the image sizes of segmentation by an eighth of them."""
    if isinstance(node, dict):
        return {key: smaller(value) for key, value in node.items()}
    if isinstance(node, list):
        return [smaller(item) for item in node]
    return SMALLER.get(node, node) if isinstance(node, tuple) else node


def shrink(cfg):
    """Reduce a config to four narrow blocks, two images per batch, two iterations."""
    width = ARCH['embed_dims']
    for part in ('model', 'train_dataloader', 'val_dataloader'):
        if part in cfg:
            cfg[part] = smaller(cfg[part])
    for loader in ('train_dataloader', 'val_dataloader'):
        if loader in cfg:
            cfg[loader].update(batch_size=2, num_workers=0)
            complete_dataloader(cfg[loader], cfg.default_scope)
    backbone = cfg.model.backbone
    backbone.arch = ARCH
    if 'out_indices' in backbone:
        backbone.out_indices = (0, 1, 2, 3)
        cfg.model.neck.embed_dim = width
        cfg.model.decode_head.update(in_channels=[width] * 4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=width, channels=8)
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    else:
        cfg.model.head.in_channels = width
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
        for schedule, end in zip(cfg.param_scheduler, (1, 2)):
            schedule.update(begin=end - 1, end=end)
    if 'frozen_stages' in backbone:
        backbone.frozen_stages = 4
        cfg.model.neck.input_features = width
    if 'teacher' in cfg.model:
        # The teacher is the recipe's, but with random weights and only one block.
        cfg.model.teacher.update(pretrained='random', layer=0)


class Start(Hook):
    """Record the weights at the start of training."""

    def before_train(self, runner):
        self.weights = {k: v.clone() for k, v in runner.model.named_parameters()}


def test_recipe_trains_for_two_iterations(name, recipe, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    cfg = recipe(name)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = name
    shrink(cfg)
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
