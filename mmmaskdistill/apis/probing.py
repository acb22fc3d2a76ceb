"""Probe the frozen features of a pre-training model's student and teacher."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.evaluation import (
    RidgeProbe,
    attention_distance,
    class_shares,
    confusion,
    mean_iou,
    nearest_neighbors,
)
from mmmaskdistill.models import MaskDistill, MaskDistillViT
from mmmaskdistill.models.layers import Attention

# Maps images [B, 3, H, W] of values 0 to 255 to features [B, N, D].
Extractor = Callable[[Tensor], Tensor]


def extractors(model: MaskDistill) -> dict[str, Extractor]:
    """Return what turns images into features, for each block and for the teacher.

    Args:
        model (MaskDistill): A model from
            :func:`mmmaskdistill.apis.pretraining.init_pretraining`, whose
            ``data_preprocessor`` is a :class:`TwoViewDataPreprocessor`.

    Returns:
        dict[str, Extractor]: Functions from images [B, 3, H, W] in the data set's
        channel order, of values 0 to 255 and the student's usual size, to features
        [B, N, D]. The keys are ``student`` (after the final norm), ``block 1``,
        ``block 2`` and so on for the blocks before the last one, if the student is a
        :class:`MaskDistillViT`, and ``teacher`` (normalized).
    """
    backbone, view = model.backbone, model.data_preprocessor
    device = next(backbone.parameters()).device

    def normalize(images: Tensor, teacher: bool) -> Tensor:
        data = dict(inputs=images.to(device), data_samples=None)
        return view(data)['inputs'][int(teacher)]

    def tokens(images: Tensor) -> Tensor:
        out = backbone(normalize(images, False))[-1]
        return out.flatten(2).transpose(1, 2)  # [B, N, D]

    def after_block(images: Tensor, block: int) -> Tensor:
        indices, backbone.out_indices = backbone.out_indices, [block]
        try:
            return tokens(images)
        finally:
            backbone.out_indices = indices

    if not isinstance(backbone, MaskDistillViT):
        functions = {'student': tokens}
    else:
        last = backbone.num_layers - 1
        functions = {'student': partial(after_block, block=last)}
        for i in range(last):
            functions[f'block {i + 1}'] = partial(after_block, block=i)
    first = int(model.teacher.class_token)
    functions['teacher'] = lambda images: model.normalizer(
        model.teacher(normalize(images, True))
    )[:, first:]
    return functions


@torch.no_grad()
def probe_segmentation(
    features: dict[str, Extractor], grid: tuple[int, int], side: int, config: Config
) -> dict[str, float]:
    """Segment by a linear probe of frozen patch features.

    Args:
        features (dict[str, Extractor]): From :func:`extractors`.
        grid (tuple[int, int]): Patch grid of the features.
        side (int): Side in pixels to which images are resized.
        config (Config): A segmentation config. Its validation pipeline is applied to
            the training images, too.

    Returns:
        dict[str, float]: The mIoU on the validation images, in percent.
    """
    train, test = _datasets(config)
    num_classes = len(test.metainfo['classes'])
    probes = {}
    for image, sample in _samples(train, side):
        labels = sample.gt_sem_seg.data[0].long()
        shares = class_shares(labels, grid, num_classes)
        for name, extract in features.items():
            tokens = extract(image)[0].cpu()
            if name not in probes:
                probes[name] = RidgeProbe(tokens.shape[1], num_classes)
            probes[name].add(tokens, shares)
    matrices = dict.fromkeys(probes, 0)
    for probe in probes.values():
        probe.fit()
    for image, sample in _samples(test, side):
        labels = sample.gt_sem_seg.data[0].long()
        for name, extract in features.items():
            scores = probes[name].predict(extract(image)[0].cpu())
            scores = scores.T.unflatten(1, grid)[None]  # [1, K, h, w]
            scores = F.interpolate(
                scores, labels.shape, mode='bilinear', align_corners=False
            )
            matrices[name] += confusion(scores[0].argmax(0), labels, num_classes)
    return {name: mean_iou(matrix) for name, matrix in matrices.items()}


@torch.no_grad()
def probe_classification(
    features: dict[str, Extractor], side: int, config: Config
) -> dict[str, float]:
    """Classify by the nearest neighbors among mean patch features.

    Args:
        features (dict[str, Extractor]): From :func:`extractors`.
        side (int): Side in pixels to which images are resized.
        config (Config): A classification config. Its validation pipeline is applied
            to the training images, too.

    Returns:
        dict[str, float]: The top-1 accuracy on the validation images, in percent.
    """
    pooled, labels = [], []
    for dataset in _datasets(config):
        rows, known = {name: [] for name in features}, []
        for image, sample in _samples(dataset, side):
            known.append(sample.gt_label[0])
            for name, extract in features.items():
                rows[name].append(extract(image)[0].float().mean(0).cpu())
        pooled.append({name: torch.stack(x) for name, x in rows.items()})
        labels.append(torch.stack(known))
    classes = int(torch.cat(labels).max()) + 1
    return {
        name: 100
        * (
            nearest_neighbors(pooled[0][name], labels[0], pooled[1][name], classes)
            == labels[1]
        )
        .double()
        .mean()
        .item()
        for name in features
    }


@torch.no_grad()
def measure_attention(
    model: MaskDistill, side: int, config: Config, number: int = 32
) -> dict[str, float]:
    """Measure how far the patches attend in each block of the student.

    Args:
        model (MaskDistill): The model. Its student is a :class:`MaskDistillViT`.
        side (int): Side in pixels to which images are resized.
        config (Config): A config with validation images.
        number (int): Number of images. Defaults to 32.

    Returns:
        dict[str, float]: The mean distance in pixels over the heads and images, by the
        names of :func:`extractors`. Heads and images without a distance are left out,
        see :func:`.attention_distance`; NaN if none has one.
    """
    backbone = model.backbone
    if not isinstance(backbone, MaskDistillViT):
        return {}
    distances = [[] for _ in backbone.blocks]

    def measure(index: int) -> Callable:
        def hook(attention: Attention, args: tuple):
            x, grid, shared_bias = args[:3]
            distance = attention_distance(attention.weights(x, grid, shared_bias), grid)
            distances[index].append(distance.nanmean().item() * backbone.patch_size)

        return hook

    hooks = [
        block.attn.register_forward_pre_hook(measure(i))
        for i, block in enumerate(backbone.blocks)
    ]
    student = extractors(model)['student']
    for image, _ in islice(_samples(_datasets(config)[1], side), number):
        student(image)
    for hook in hooks:
        hook.remove()
    names = [*(f'block {i + 1}' for i in range(len(distances) - 1)), 'student']
    return {
        name: torch.tensor(values).nanmean().item()
        for name, values in zip(names, distances)
    }


def _datasets(config: Config) -> list:
    """Build the training and the validation data, both without augmentation."""
    parts = []
    for loader in ('train_dataloader', 'val_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if not dataset or 'pipeline' not in dataset:
            raise ConfigError(
                f'{config.filename!r} has no {loader}.dataset.pipeline: a probe '
                'needs training and validation data'
            )
        parts.append(deepcopy(dataset))
    parts[0].pipeline = deepcopy(parts[1].pipeline)
    scope = config.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        return [DATASETS.build(part) for part in parts]


def _samples(dataset: torch.utils.data.Dataset, side: int) -> Iterator:
    """Yield each image, [1, 3, side, side] float32, and its data sample."""
    for i in range(len(dataset)):
        sample = dataset[i]
        image = sample['inputs'][None].float()
        if image.shape[2:] != (side, side):
            image = F.interpolate(
                image,
                (side, side),
                mode='bilinear',
                align_corners=False,
                antialias=True,
            )
        yield image, sample['data_samples']
