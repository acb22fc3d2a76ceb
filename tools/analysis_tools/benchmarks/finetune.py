"""Time and memory of a training step that fine-tunes a ViT on ImageNet-1k.

With --drop-path, the sides are compared for equal results without drop path before
they are timed with it. This project computes only the branches that drop path
keeps. For example:

  python tools/analysis_tools/benchmark.py finetune --drop-path 0.1
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import sides as common
from .sides import Side, training

CLASSES = 1000
SMOOTHING = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    common.add_arguments(parser, PEERS, img_size=224, batch=8)
    common.add_drop_path(parser, recipe=0.1)


def run(args: argparse.Namespace) -> dict:
    """Measure all sides and print the table, see :func:`.sides.run`."""
    return common.run(args, build)


def build(args: argparse.Namespace, device: torch.device) -> dict[str, Side]:
    """Build classifiers with the same weights, images and labels.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the models and images.

    Returns:
        dict[str, Side]: The sides by name, ``ours`` first.
    """
    from mmengine.registry import MODELS
    from mmpretrain.structures import DataSample

    arch = common.vit_arch(args)

    def classifier(backbone: str, **options) -> nn.Module:
        return MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(
                    type=backbone,
                    arch=arch,
                    img_size=args.img_size,
                    patch_size=16,
                    out_type='avg_featmap',
                    drop_path_rate=args.drop_path,
                    final_norm=False,
                    use_rel_pos_bias=True,
                    use_shared_rel_pos_bias=False,
                    layer_scale_init_value=0.1,
                    **options,
                ),
                head=dict(
                    type='mmpretrain.LinearClsHead',
                    in_channels=arch['embed_dims'],
                    num_classes=CLASSES,
                    loss=dict(
                        type='mmpretrain.LabelSmoothLoss',
                        label_smooth_val=SMOOTHING,
                        mode='original',
                    ),
                ),
            )
        )

    ours = classifier('mmmaskdistill.MaskDistillViT')
    ours.init_weights()
    for block in ours.backbone.blocks:
        nn.init.normal_(block.attn.relative_position_bias_table)
    images = torch.randn(args.batch, 3, args.img_size, args.img_size, device=device)
    labels = torch.randint(CLASSES, (args.batch,))
    # Scores of all classes, as Mixup makes them, let no GPU wait for a check of labels.
    scores = F.one_hot(labels, CLASSES).float()
    samples = [DataSample().set_gt_score(score).to(device) for score in scores]
    labels = labels.to(device)

    def mmpretrain_loss(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: model.loss(images, samples)['loss']

    sides = {}
    if 'mmpretrain' in args.against:
        peer = classifier('mmpretrain.BEiTViT')
        peer.init_weights()
        for layer in peer.backbone.layers:
            nn.init.normal_(layer.attn.relative_position_bias_table)
        # This project's model reads mmpretrain's names.
        ours.load_state_dict(peer.state_dict(), strict=False)
        sides['mmpretrain'] = mmpretrain_loss(peer), peer
    if 'timm' in args.against:
        peer = timm_classifier(ours, arch, args)

        def timm_loss(peer: nn.Module = peer) -> Tensor:
            return F.cross_entropy(peer(images), labels, label_smoothing=SMOOTHING)

        sides['timm'] = timm_loss, peer
    sides = {'ours': (mmpretrain_loss(ours), ours), **sides}
    return {
        name: training(loss, model.to(device).train(), fused=name == 'ours')
        for name, (loss, model) in sides.items()
    }


def timm_classifier(ours: nn.Module, arch: dict, args: argparse.Namespace) -> nn.Module:
    """Build timm's BEiT with the weights of this project's classifier.

    Args:
        ours (nn.Module): This project's classifier.
        arch (dict): Architecture of the ViT, see :func:`.sides.vit_arch`.
        args (argparse.Namespace): The command line.

    Returns:
        nn.Module: The classifier of timm.
    """
    from timm.models.beit import Beit

    peer = Beit(
        img_size=args.img_size,
        patch_size=16,
        num_classes=CLASSES,
        global_pool='avg',
        embed_dim=arch['embed_dims'],
        depth=arch['num_layers'],
        num_heads=arch['num_heads'],
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
        init_values=0.1,
        drop_path_rate=args.drop_path,
    )
    state = {
        key.removeprefix('backbone.').replace('head.fc.', 'head.'): tensor
        for key, tensor in ours.state_dict().items()
    }
    del state['mask_token']
    peer.load_state_dict(state)
    return peer


PEERS = ('mmpretrain', 'timm')
