"""Time and memory of a training step that fine-tunes a ViT with UperNet.

The job compares this project's UperNet and ViT with mmseg's UperNet and BEiT; both
use mmseg's losses. With --drop-path, the sides are compared for equal results
without drop path before they are timed with it. For example:

  python tools/analysis_tools/benchmark.py segment --drop-path 0.15
"""

import argparse

import torch
from command_line import fail
from torch import Tensor, nn

from . import sides as common
from .sides import Side, training

CLASSES = 150
PEERS = ('mmseg',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    common.add_arguments(parser, PEERS, img_size=512, batch=2)
    common.add_drop_path(parser, recipe=0.15)


def run(args: argparse.Namespace) -> dict:
    """Measure all sides and print the table, see :func:`.sides.run`."""
    return common.run(args, build)


def build(args: argparse.Namespace, device: torch.device) -> dict[str, Side]:
    """Build segmentors with the same weights, images and labels.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the models and images.

    Returns:
        dict[str, Side]: The sides by name, ``ours`` first.
    """
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = (args.batch, args.img_size, args.img_size)
    models = segmentors(args, args.img_size, args.drop_path)
    images = torch.randn(size[0], 3, *size[1:], device=device)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=labels[None]))
        for labels in torch.randint(CLASSES, size, device=device)
    ]

    def loss(model: nn.Module) -> Tensor:
        losses = model.loss(images, samples)
        return sum(v for name, v in losses.items() if 'loss' in name)

    return {
        name: training(
            lambda model=model: loss(model),
            model.to(device).train(),
            fused=name == 'ours',
        )
        for name, model in models.items()
    }


def segmentors(
    args: argparse.Namespace, window: int, drop_path: float
) -> dict[str, nn.Module]:
    """Build this project's and mmseg's UperNet with the same weights.

    Args:
        args (argparse.Namespace): The command line.
        window (int): Side in pixels of the square windows that the model sees.
        drop_path (float): Drop path rate of the last block.

    Returns:
        dict[str, nn.Module]: The segmentors ``ours`` and, if it is asked for,
        ``mmseg``.

    Raises:
        SystemExit: If ``--depth`` is too small.
    """
    from mmengine.registry import MODELS

    arch = common.vit_arch(args)
    width, depth = arch['embed_dims'], arch['num_layers']
    taps = tuple(depth * k // 12 - 1 for k in (4, 6, 8, 12))
    if taps[0] < 0 or len(set(taps)) < 4:
        fail(
            f'--depth {depth}: expected at least 5, because UperNet uses the '
            'outputs of four different blocks'
        )
    common_options = dict(
        img_size=(window, window),
        patch_size=16,
        out_indices=taps,
        drop_path_rate=drop_path,
        final_norm=False,
    )
    ours = MODELS.build(
        _upernet(
            'mmmaskdistill',
            width,
            window,
            dict(
                type='mmmaskdistill.MaskDistillViT',
                arch=arch,
                use_rel_pos_bias=True,
                use_shared_rel_pos_bias=False,
                layer_scale_init_value=0.1,
                **common_options,
            ),
        )
    )
    ours.init_weights()
    for block in ours.backbone.blocks:
        nn.init.normal_(block.attn.relative_position_bias_table)
    models = dict(ours=ours)
    if 'mmseg' in args.against:
        peer = MODELS.build(
            _upernet(
                'mmseg',
                width,
                window,
                dict(
                    type='mmseg.BEiT',
                    embed_dims=width,
                    num_layers=depth,
                    num_heads=arch['num_heads'],
                    mlp_ratio=arch['feedforward_channels'] // width,
                    norm_cfg=dict(type='LN', eps=1e-6),
                    init_values=0.1,
                    **common_options,
                ),
            )
        )
        peer.init_weights()
        for layer in peer.backbone.layers:
            nn.init.normal_(layer.attn.relative_position_bias_table)
        # This project's model reads mmseg's names.
        ours.load_state_dict(peer.state_dict(), strict=False)
        models['mmseg'] = peer
    return models


def _upernet(scope: str, width: int, window: int, backbone: dict) -> dict:
    """Return the model of mmseg's ``upernet_beit.py`` with BN instead of SyncBN."""
    from mmengine.config import ConfigDict

    norm = dict(type='BN')
    return dict(
        type=f'{scope}.EncoderDecoder',
        backbone=backbone,
        neck=dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=width,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=norm,
        ),
        decode_head=dict(
            type=f'{scope}.UPerHead',
            in_channels=[width] * 4,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2, 3, 6),
            channels=width,
            dropout_ratio=0.1,
            num_classes=CLASSES,
            norm_cfg=norm,
            align_corners=False,
            loss_decode=dict(type='mmseg.CrossEntropyLoss'),
        ),
        auxiliary_head=dict(
            type='mmseg.FCNHead',
            in_channels=width,
            in_index=2,
            channels=256,
            num_convs=1,
            concat_input=False,
            dropout_ratio=0.1,
            num_classes=CLASSES,
            norm_cfg=norm,
            align_corners=False,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', loss_weight=0.4),
        ),
        test_cfg=ConfigDict(
            mode='slide',
            crop_size=(window, window),
            stride=(window * 2 // 3, window * 2 // 3),
        ),
    )
