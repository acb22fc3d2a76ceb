"""Configs of the repository, reduced to a size at which they train in seconds."""

import torch
from helpers import tiny
from mmengine.hooks import Hook
from torch.utils._python_dispatch import TorchDispatchMode

from mmmaskdistill.apis.configs import complete_dataloader

ARCH = dict(tiny.ARCH, num_layers=4)
WIDTH = ARCH['embed_dims']
SMALLER = {(512, 512): (64, 64), (341, 341): (43, 43), (2048, 512): (256, 64)}


def smaller(node):
    """Replace the image sizes of segmentation by an eighth of them."""
    if isinstance(node, dict):
        return {key: smaller(value) for key, value in node.items()}
    if isinstance(node, list):
        return [smaller(item) for item in node]
    return SMALLER.get(node, node) if isinstance(node, tuple) else node


def shrink_recipe(cfg):
    """Reduce a config to four narrow blocks, two images per batch, two iterations."""
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
        cfg.model.neck.embed_dim = WIDTH
        cfg.model.decode_head.update(in_channels=[WIDTH] * 4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=WIDTH, channels=8)
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    else:
        cfg.model.head.in_channels = WIDTH
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
        for schedule, end in zip(cfg.param_scheduler, (1, 2)):
            schedule.update(begin=end - 1, end=end)
    if 'frozen_stages' in backbone:
        backbone.frozen_stages = 4
        cfg.model.neck.input_features = WIDTH
    if 'teacher' in cfg.model:
        # The teacher is the recipe's, but with random weights and only one block.
        cfg.model.teacher.update(pretrained='random', layer=0)


def shrink_method(cfg):
    """Reduce a config to four narrow blocks, two images per batch, two iterations."""
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=0)
    complete_dataloader(loader, cfg.default_scope)
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    for schedule, end in zip(cfg.param_scheduler, (1, 2)):
        schedule.update(begin=end - 1, end=end)
    model = cfg.model
    width = shrink_student(model.backbone)
    for head in model.head.get('heads', [model.head]):
        head.in_channels = width
    for teacher in teachers_of(model):
        teacher.update(
            {
                'TimmTeacher': dict(pretrained='random', layer=0),
                'DALLETeacher': dict(pretrained='random', width=8),
                'VQKDTeacher': dict(pretrained='random', arch=ARCH),
                'MomentumTeacher': dict(num_layers=2),
            }.get(kind(teacher), {})
        )
    if kind(model.teacher) == 'MomentumTeacher':
        model.head.out_channels = WIDTH
    if model.head.type.endswith('DecoderHead'):
        model.head.update(embed_dims=16, num_layers=1, num_heads=2)


def shrink_student(backbone):
    """Reduce the config of a student, and return its new width."""
    if kind(backbone) == 'MaskedSwin':
        backbone.update(tiny.SWIN)
        return 8 * tiny.SWIN['arch']['embed_dims']
    if kind(backbone) == 'MaskedTimm':
        backbone.model_name = 'test_convnext'
        return 64
    backbone.arch = ARCH
    if kind(backbone) == 'PatchAggregationViT':
        backbone.early_layers = 2
    return WIDTH


def teachers_of(model):
    """The configs of a model's teachers."""
    return model.teacher.get('teachers', [model.teacher])


def kind(part):
    """The name of a part's class."""
    return part.type.split('.')[1]


class WithoutDraws(TorchDispatchMode):
    """Leave weights uninitialized, because drawing those of a ViT-L takes long."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func.overloadpacket in (aten.uniform_, aten.normal_, aten.erfinv_):
            return args[0].zero_() if args[0].numel() < 2**16 else args[0]
        return func(*args, **(kwargs or {}))


class Start(Hook):
    """Record the weights at the start of training."""

    def before_train(self, runner):
        self.weights = {k: v.clone() for k, v in runner.model.named_parameters()}
