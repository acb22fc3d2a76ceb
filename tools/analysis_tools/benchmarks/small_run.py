"""A small segmentation run, for jobs that measure what surrounds training."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WIDTH, DEPTH, HEADS = 192, 4, 3
CLASSES = 150

# The training pipeline is that of mmseg's `_base_/datasets/ade20k.py`.
CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports={imports})
model = {model}
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))
param_scheduler = [dict(type='PolyLR', end=160000, by_epoch=False)]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=160000)
train_dataloader = dict(
    batch_size=2,
    num_workers={workers},
    persistent_workers={workers} > 0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset',
        data_root={folder!r},
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(
                type='RandomResize',
                scale=({size} * 4, {size}),
                ratio_range=(0.5, 2.0),
                keep_ratio=True),
            dict(type='RandomCrop', crop_size=({size}, {size})),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs')
        ]))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False))
custom_hooks = {hooks}
log_processor = dict(by_epoch=False)
log_level = 'ERROR'
randomness = dict(seed=0)
work_dir = {folder!r}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the data of the run.

    Args:
        parser (argparse.ArgumentParser): The parser of the job.
    """
    parser.add_argument(
        '--images',
        type=int,
        default=64,
        metavar='N',
        help='number of generated images (default: %(default)s)',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        default=512,
        metavar='PIXELS',
        help='side of the training crops and height of the images in pixels '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='number of processes that load the data (default: %(default)s)',
    )


def write_data(folder: Path, images: int, size: int) -> None:
    """Write random JPEG images with smooth colors, and their label maps.

    Args:
        folder (Path): Folder in which the folders ``images`` and ``annotations``
            are made.
        images (int): Number of images.
        size (int): Height of the images in pixels. The width is 4/3 of it.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    shape = round(size * 4 / 3), size
    for name in ('images', 'annotations'):
        (folder / name).mkdir()
    for k in range(images):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize(shape, Image.BICUBIC).save(
            folder / f'images/{k:04}.jpg', quality=90
        )
        labels = Image.fromarray(rng.integers(0, CLASSES + 1, (6, 8), np.uint8))
        labels.resize(shape, Image.NEAREST).save(folder / f'annotations/{k:04}.png')


def write_config(
    folder: Path,
    name: str,
    ours: bool,
    size: int,
    workers: int,
    imports: Sequence[str] = (),
    hooks: Sequence[dict] = (),
) -> Path:
    """Write a config that trains a small UperNet.

    Args:
        folder (Path): Folder with the data. The config is written to it too.
        name (str): File name of the config.
        ours (bool): Whether the models are those of this project. Otherwise they
            are those of mmseg.
        size (int): Side of the training crops in pixels.
        workers (int): Number of processes that load the data.
        imports (Sequence[str]): Modules to import in addition to this project's.
            Defaults to none.
        hooks (Sequence[dict]): Configs of custom hooks. Defaults to none.

    Returns:
        Path: The config file.
    """
    imports = list(imports)
    options = dict(img_size=(size, size), out_indices=(0, 1, 2, 3), final_norm=False)
    if ours:
        imports = ['mmmaskdistill', *imports]
        backbone = dict(
            type='mmmaskdistill.MaskDistillViT',
            arch=dict(
                embed_dims=WIDTH,
                num_layers=DEPTH,
                num_heads=HEADS,
                feedforward_channels=4 * WIDTH,
            ),
            use_rel_pos_bias=True,
            use_shared_rel_pos_bias=False,
            **options,
        )
    else:
        backbone = dict(
            type='BEiT', embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, **options
        )
    norm = dict(type='BN')
    scope = 'mmmaskdistill.' if ours else ''
    model = dict(
        type=f'{scope}EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size=(size, size),
            seg_pad_val=255,
        ),
        backbone=backbone,
        neck=dict(
            type='Feature2Pyramid',
            embed_dim=WIDTH,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=norm,
        ),
        decode_head=dict(
            type=f'{scope}UPerHead',
            in_channels=[WIDTH] * 4,
            in_index=[0, 1, 2, 3],
            channels=32,
            num_classes=CLASSES,
            norm_cfg=norm,
            align_corners=False,
        ),
    )
    path = folder / name
    path.write_text(
        CONFIG.format(
            imports=imports,
            model=model,
            workers=workers,
            folder=str(folder),
            size=size,
            hooks=list(hooks),
        )
    )
    return path
