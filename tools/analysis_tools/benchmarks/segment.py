"""A step of semantic segmentation, fine-tuning UperNet over a ViT.

Against mmseg's own UperNet over its BEiT, both with mmseg's losses. With
--drop-path the sides are first shown to be equal without.
"""

import torch
from torch import nn

from . import sides as common
from .sides import Side, training

CLASSES = 150
PEERS = ('mmseg',)


def add_arguments(parser):
    common.add_arguments(parser, PEERS, img_size=512, batch=2)
    common.add_drop_path(parser, recipe=0.15)


def run(args) -> dict:
    return common.run(args, build)


def build(args, device) -> dict[str, Side]:
    """Segmentors with the same weights, images and labels."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = (args.batch, args.img_size, args.img_size)
    models = segmentors(args, args.img_size, args.drop_path)
    images = torch.randn(size[0], 3, *size[1:], device=device)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=labels[None]))
        for labels in torch.randint(CLASSES, size, device=device)
    ]

    def loss(model):
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


def segmentors(args, window: int, drop_path: float) -> dict[str, nn.Module]:
    """Ours and mmseg's UperNet with the same weights.

    Args:
        args (Namespace): The command line.
        window (int): Height and width of what the model sees, in pixels.
        drop_path (float): Drop path of the last block.
    """
    from mmengine.registry import MODELS

    arch = common.vit_arch(args)
    width, depth = arch['embed_dims'], arch['num_layers']
    taps = tuple(depth * k // 12 - 1 for k in (4, 6, 8, 12))
    if taps[0] < 0 or len(set(taps)) < 4:
        raise SystemExit(
            f'error: --depth {depth}: UperNet taps four blocks, expected at least 5'
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
        # Ours reads mmseg's names.
        ours.load_state_dict(peer.state_dict(), strict=False)
        models['mmseg'] = peer
    return models


def _upernet(scope: str, width: int, window: int, backbone: dict) -> dict:
    """mmseg's `_base_/models/upernet_beit.py`, without SyncBN."""
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
