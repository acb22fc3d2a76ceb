"""Check batches: that there are any, and that their images fit together."""

import copy
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmseg.models.decode_heads import ASPPHead, PSPHead, UPerHead

from mmmaskdistill.datasets import LoadImage
from mmmaskdistill.errors import first_line

from .findings import Findings
from .heads import Head, data_preprocessor, find_heads, name_of
from .inspection import inspect_images
from .known import is_known
from .labels import Contents
from .sources import Source, fixed_random_state

BATCH_NORMS = ('BN', 'BN1d', 'BN2d')
# The setting of each data preprocessor that reverses the order of three channels
ORDER_FLAGS = dict(
    SegDataPreProcessor='bgr_to_rgb',
    ClsDataPreprocessor='to_rgb',
    SelfSupDataPreprocessor='to_rgb',
    TwoNormDataPreprocessor='to_rgb',
    TwoViewDataPreprocessor='to_rgb',
)
# How often the pipeline of a data set is tried: at least, and at most in this many
# seconds.
FEWEST_TRIALS, MOST_TRIALS, TRIAL_SECONDS = 4, 16, 0.5
# Images whose sizes are read to see whether a batch has several.
MOST_HEADERS = 2000


@dataclass
class Trial:
    """What a pipeline made of some images.

    Attributes:
        shapes (dict): Sizes [channels, height, width] of the results for each width and
            height of an image file.
        labels (set[int]): The labels in the results.
        error (str): Why the pipeline failed. Empty if it did not.
    """

    shapes: dict = field(default_factory=dict)
    labels: set = field(default_factory=set)
    error: str = ''


def check_number_of_batches(
    cfg: dict, sizes: dict[str, int], findings: Findings
) -> None:
    """Check that there are enough images for a batch.

    Args:
        cfg (dict): The config.
        sizes (dict[str, int]): Number of samples of each data loader.
        findings (Findings): Receives the findings.
    """
    for name, size in sizes.items():
        loader = cfg[name]
        batch, sampler = loader.get('batch_size'), loader.get('sampler') or {}
        if loader.get('batch_sampler') is not None:
            continue
        kind = sampler.get('type') if isinstance(sampler, dict) else sampler
        if not kind:
            findings.error(
                f'{name}.sampler is missing: set {name}.sampler=dict('
                "type='DefaultSampler', shuffle="
                f'{name == "train_dataloader"})'
            )
            continue
        if type(batch) is not int or batch < 1:
            findings.error(
                f'{name}.batch_size={batch!r}: expected a whole number of at least 1'
            )
            continue
        # The runner replaces an InfiniteSampler where epochs must end.
        finite = ('DefaultSampler', *['InfiniteSampler'] * _counts_epochs(cfg, name))
        number = loader.get('num_batch_per_epoch')
        if size == 0:
            findings.error(f'{name}.dataset has no images')
        elif number and number * batch * world_size() > size:
            findings.error(
                f'{name}.num_batch_per_epoch={number}: {size} images have only '
                f'{size // (batch * world_size())} batches of {batch}'
            )
        elif loader.get('drop_last') and name_of(kind) in finite:
            share = math.ceil(size / world_size())
            if share < batch:
                each = f' ({share} for each process)' if world_size() > 1 else ''
                findings.error(
                    f'{name}: {size} images{each} do not fill a batch of {batch}, and '
                    f'drop_last=True drops what is not full, so that there is none. '
                    f'Set {name}.batch_size to {share} or less, or '
                    f'{name}.drop_last=False'
                )


def check_batch_norm(cfg: dict, sizes: dict[str, int], findings: Findings) -> None:
    """Check that batch norm gets more than one value per channel.

    Batch norm of a map that was pooled to one pixel needs two images.

    Args:
        cfg (dict): The config.
        sizes (dict[str, int]): Number of samples of each data loader.
        findings (Findings): Receives the findings.
    """
    loader = cfg.get('train_dataloader') or {}
    batch = loader.get('batch_size')
    if not isinstance(batch, int):
        return
    last = _last_batch(cfg, batch, sizes.get('train_dataloader'))
    if 1 not in (batch, last):
        return
    pooled = [
        (head.option, head.cfg.get('norm_cfg'))
        for head in find_heads(cfg)
        if _pools_to_a_pixel(head)
    ]
    neck = (cfg.get('model') or {}).get('neck')
    if isinstance(neck, dict) and name_of(neck.get('type', '')) == 'ClsBatchNormNeck':
        pooled.append(('model.neck', dict(type='BN1d')))
    single = [(option, norm) for option, norm in pooled if _needs_two(norm)]
    if not single:
        return
    option, norm = single[0]
    where = (
        f'{option}.norm_cfg={dict(norm)!r}'
        if option != 'model.neck'
        else 'model.neck=ClsBatchNormNeck'
    )
    each = ' for each process' if world_size() > 1 else ''
    if batch == 1:
        findings.error(
            f'train_dataloader.batch_size=1{each}, but {where} normalizes a map of '
            'one pixel, and needs two images: set train_dataloader.batch_size=2 or '
            "more, or norm_cfg=dict(type='GN', num_groups=32) of all "
            'heads'
        )
    else:
        findings.error(
            f'the last batch of an epoch has 1 of {sizes["train_dataloader"]} images '
            f'(train_dataloader.batch_size={batch}), but {where} needs two: set '
            'train_dataloader.drop_last=True'
        )


def try_pipeline(contents: Contents) -> Trial:
    """Run the pipeline of a data set on images of different sizes.

    Args:
        contents (Contents): The data set and some of its files. Unreadable ones are
            not used.

    Returns:
        Trial: What the pipeline made of them.
    """
    trial, source = Trial(), contents.source
    if not is_known(type(source.dataset)):
        return trial
    by_size: dict[tuple, list[dict]] = {}
    for sample, record in zip(contents.samples, contents.records):
        image, label = sample['image'], sample['label']
        if not image['error'] and not (label and label['error']):
            by_size.setdefault((image['width'], image['height']), []).append(record)
    if not by_size:
        return trial
    start, sizes = time.monotonic(), list(by_size)[:MOST_TRIALS]
    turns = MOST_TRIALS if source.training else len(sizes)
    with fixed_random_state():
        for turn in range(turns):
            late = time.monotonic() - start > TRIAL_SECONDS
            if turn >= FEWEST_TRIALS and late:
                break
            size = sizes[turn % len(sizes)]
            records = by_size[size]
            results = _run(source, records[turn // len(sizes) % len(records)], trial)
            if trial.error:
                break
            _note(results, size, trial)
    return trial


def check_trial(
    cfg: dict, contents: Contents, trial: Trial, findings: Findings
) -> None:
    """Check what the pipeline of a data set makes of its images.

    Args:
        cfg (dict): The config.
        contents (Contents): The data set and some of its files.
        trial (Trial): What :func:`try_pipeline` has found.
        findings (Findings): Receives the findings.
    """
    source = contents.source
    if trial.error:
        findings.add(trial.error, fatal=source.known_pipeline)
        return
    if not trial.shapes:
        return
    _check_channels(cfg, source, trial, findings)
    heads = [head for head in find_heads(cfg) if head.segments]
    if heads and source.training:
        _check_written_labels(contents, trial, heads, findings)
        _check_padding(cfg, source, trial, heads, findings)
    _check_shapes(cfg, contents, trial, findings)


def world_size() -> int:
    """Return the number of processes that the launcher starts."""
    for name in ('WORLD_SIZE', 'OMPI_COMM_WORLD_SIZE'):
        if os.environ.get(name, '').isdigit():
            return int(os.environ[name])
    return 1


def _last_batch(cfg: dict, batch: int, size: int | None) -> int | None:
    """Return the size of an epoch's last batch, or None if all are full."""
    loader = cfg['train_dataloader']
    by_epoch = _counts_epochs(cfg, 'train_dataloader')
    sampler = (loader.get('sampler') or {}).get('type', '')
    if loader.get('drop_last') or not by_epoch or not size:
        return None
    if name_of(sampler) != 'DefaultSampler':
        return None
    return math.ceil(size / world_size()) % batch


def _counts_epochs(cfg: dict, name: str) -> bool:
    """Tell whether a loader is that of a training loop which counts epochs."""
    loop = cfg.get('train_cfg') or {}
    by_epoch = loop.get('by_epoch', name_of(loop.get('type', '')).startswith('Epoch'))
    return name == 'train_dataloader' and by_epoch


def _pools_to_a_pixel(head: Head) -> bool:
    if not head.segments:
        return False
    if issubclass(head.kind, (PSPHead, UPerHead)):
        return 1 in head.cfg.get('pool_scales', (1, 2, 3, 6))
    return issubclass(head.kind, ASPPHead)


def _needs_two(norm: Any) -> bool:
    kind = norm.get('type') if isinstance(norm, dict) else None
    # mmengine replaces SyncBN by BN if there is one process.
    return kind in BATCH_NORMS or (
        kind == 'SyncBN' and (world_size() == 1 or not torch.cuda.is_available())
    )


def _run(source: Source, record: dict, trial: Trial) -> dict | None:
    results = copy.deepcopy(record)  # steps append to its lists
    steps = getattr(source.dataset.pipeline, 'transforms', [])
    for k, step in enumerate(steps):
        try:
            results = step(results)
        except Exception as error:
            trial.error = (
                f'{source.option}.pipeline.{k} ({type(step).__name__}) fails on '
                f"'{record.get('img_path')}': {first_line(error)}"
            )
            return None
        if results is None:
            return None
    return results


def _note(results: dict | None, size: tuple, trial: Trial) -> None:
    """Note the shape of an image and the labels in what a pipeline returned."""
    inputs = results.get('inputs') if isinstance(results, dict) else None
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 3:
        return
    trial.shapes.setdefault(size, []).append(tuple(inputs.shape))
    label = getattr(results.get('data_samples'), 'gt_sem_seg', None)
    if label is not None:
        trial.labels.update(np.unique(label.data.numpy()).tolist())


def _check_channels(
    cfg: dict, source: Source, trial: Trial, findings: Findings
) -> None:
    option, preprocessor = data_preprocessor(cfg)
    channels = {shape[0] for shapes in trial.shapes.values() for shape in shapes}
    _check_order(source, channels, option, preprocessor, findings)
    for name in ('mean', 'std'):
        values = preprocessor.get(name)
        if not isinstance(values, (list, tuple)) or len(values) == 1:
            continue
        for count in channels - {len(values)}:
            findings.add(
                f'the images of {source.option} have {count} channels after its '
                f'pipeline, {option}.{name} has {len(values)} values: set mean, '
                'std and in_channels of the backbone for these channels',
                # One channel is broadcast against the mean of three.
                fatal=count != 1 and source.known_pipeline,
            )


def _check_order(
    source: Source, channels: set, option: str, preprocessor: dict, findings: Findings
) -> None:
    """Check that the mean of three bands meets the bands in the same order."""
    flag = ORDER_FLAGS.get(name_of(preprocessor.get('type', '')))
    statistics = [preprocessor.get(name) or () for name in ('mean', 'std')]
    if (
        isinstance(source.step('Image'), LoadImage)
        and channels == {3}
        and flag
        and not preprocessor.get(flag)
        and any(len(set(values)) > 1 for values in statistics)
    ):
        findings.warn(
            f'LoadImage of {source.option} loads three channels in reverse order, as '
            f"mmcv's loader does, and {option}.{flag} is not set, so that mean and std "
            f'belong to the channels in the order 2, 1, 0: set {option}.{flag}=True, '
            'and give mean and std in the order of the file'
        )


def _check_written_labels(
    contents: Contents, trial: Trial, heads: Sequence[Head], findings: Findings
) -> None:
    source = contents.source
    written = trial.labels - contents.pixels.keys()
    for head in heads:
        bad = [v for v in written if v >= head.labels and v != head.ignore_index]
        if bad and contents.pixels:
            findings.add(
                f'the pipeline of {source.option} writes label {bad[0]} where it moves '
                f'an image, but {head.option} has num_classes={head.num_classes} and '
                f'ignore_index={head.ignore_index}: set seg_pad_val of its steps to '
                f'{head.ignore_index}',
                fatal=source.known_pipeline and head.refuses_labels,
            )


def _check_padding(
    cfg: dict, source: Source, trial: Trial, heads: Sequence[Head], findings: Findings
) -> None:
    option, preprocessor = data_preprocessor(cfg)
    if name_of(preprocessor.get('type', '')) != 'SegDataPreProcessor':
        return
    size, divisor = preprocessor.get('size'), preprocessor.get('size_divisor')
    if (size is None) == (divisor is None):
        findings.error(
            f'{option}.size={size!r} and size_divisor={divisor!r}: mmseg needs one of '
            'them in training. Set size to the size of the crop'
        )
        return
    shapes = [shape for shapes in trial.shapes.values() for shape in shapes]
    if size is not None:
        filled = [
            min(h / size[0], 1) * min(w / size[1], 1) for _, h, w in shapes if h and w
        ]
        padded = any(h < size[0] or w < size[1] for _, h, w in shapes)
        if np.mean(filled) < 0.5:
            small = min(trial.shapes, key=lambda s: s[0] * s[1])
            findings.warn(
                f'{100 * (1 - np.mean(filled)):.0f} % of the training input is '
                f'padding: '
                f'{option}.size={tuple(size)}, images such as {small[0]} x {small[1]} '
                f'pixels become {shapes[0][2]} x {shapes[0][1]}. Set a smaller size '
                'and crop_size, or a larger scale'
            )
    else:
        padded = any(h % divisor or w % divisor for _, h, w in shapes) or (
            len({shape[1:] for shape in shapes}) > 1
        )
    value = preprocessor.get('seg_pad_val', 255)
    heads = [head for head in heads if head.ignore_index != value]
    if not (padded and heads):
        return
    if len({head.ignore_index for head in heads}) > 1:
        each = ', '.join(f'{head.option} {head.ignore_index}' for head in heads)
        findings.add(
            f'images of {source.option} are padded with one label, and the heads '
            f'ignore different ones ({each}): set ignore_index of all heads to '
            f'{option}.seg_pad_val={value}',
            fatal=any(head.refuses_labels for head in heads),
        )
        return
    options = ' and '.join(head.option for head in heads)
    ignored, count = heads[0].ignore_index, heads[0].num_classes
    if 0 <= value < count:
        findings.warn(
            f'{option}.seg_pad_val={value} is a class, so that padding is trained as '
            f'this class: set {option}.seg_pad_val={ignored}, which {options} ignore'
        )
    else:
        findings.add(
            f'{option}.seg_pad_val={value} is neither a class nor what {options} '
            f'ignore (num_classes={count}, ignore_index={ignored}), and images of '
            f'{source.option} are padded: set {option}.seg_pad_val={ignored}',
            fatal=any(head.refuses_labels for head in heads),
        )


def _check_shapes(
    cfg: dict, contents: Contents, trial: Trial, findings: Findings
) -> None:
    """Check that the images of a batch can be stacked."""
    source = contents.source
    loader = cfg[source.loader]
    batch = loader.get('batch_size')
    option, preprocessor = data_preprocessor(cfg)
    if not isinstance(batch, int) or batch < 2 or not source.known_pipeline:
        return
    shapes = {
        size: {_stacked(shape, source, preprocessor) for shape in shapes}
        for size, shapes in trial.shapes.items()
    }
    different = set().union(*shapes.values())
    collate = (loader.get('collate_fn') or {}).get('type', 'pseudo_collate')
    segments = name_of(preprocessor.get('type', '')) == 'SegDataPreProcessor'
    if len(different) < 2 or not (segments or name_of(collate) == 'default_collate'):
        return
    (first, one), (second, other) = _two(shapes)
    if source.training:  # a batch sampler may put images of one size together
        certain = loader.get('batch_sampler') is None
    else:
        certain = _mixes(contents, loader, batch, shapes)
    text = (
        f'{source.loader}.batch_size={batch}, but images of {source.option} have '
        f'different sizes after the pipeline: {_size(one)} and {_size(other)} '
        '(from files of '
        f'{first[0]} x {first[1]} and {second[0]} x {second[1]} pixels). '
    )
    advice = (
        f'Set {option}.size to the size of the crop, or add a crop'
        if source.training
        else f'Set {source.loader}.batch_size=1, or resize all images to one size'
    )
    findings.add(text + advice, fatal=certain)


def _stacked(shape: tuple, source: Source, preprocessor: dict) -> tuple:
    """Return the size of an image after mmseg's padding in training."""
    if not source.training or name_of(preprocessor.get('type', '')) != (
        'SegDataPreProcessor'
    ):
        return shape
    size = preprocessor.get('size')
    if size is None:  # padded to the largest image of the batch
        return shape[:1]
    return shape[0], max(shape[1], size[0]), max(shape[2], size[1])


def _mixes(contents: Contents, loader: dict, batch: int, shapes: dict) -> bool:
    """Tell whether a batch of a data set in its own order has several sizes."""
    shuffled = (loader.get('sampler') or {}).get('shuffle')
    if shuffled or loader.get('batch_sampler') is not None:
        return False  # what a batch holds is not known here
    sizes = [(s['image']['width'], s['image']['height']) for s in contents.samples]
    if not contents.complete:
        paths = contents.source.paths('img_path')[:MOST_HEADERS]
        sizes = [image.size for image in inspect_images(paths, 0, decode=False)]
    known = [frozenset(shapes.get(size, ())) for size in sizes]
    processes = world_size()
    return any(
        len(set().union(*known[rank::processes][i : i + batch])) > 1
        for rank in range(processes)
        for i in range(0, len(known), batch)
    )


def _two(shapes: dict) -> list[tuple]:
    """Return two files' sizes and what becomes of them, which differs."""
    pairs = [(size, shape) for size, part in shapes.items() for shape in part]
    other = next(pair for pair in pairs if pair[1] != pairs[0][1])
    return [pairs[0], other]


def _size(shape: tuple) -> str:
    if len(shape) < 3:
        return f'{shape[0]} channels'
    return f'{shape[2]} x {shape[1]}'
