"""A trained model that predicts."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError, first_line
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.registry import MODELS

from .preprocessing import Preprocessing, test_steps, tta_steps
from .results import Classification, Features, Result, Segmentation, complete_palette
from .sources import Trained, names_of

# What is called for an image that cannot be read.
Report = Callable[[Any, ConfigError], None]


class LoadedModel:
    """A trained model with all that its predictions need.

    :func:`.load_model` makes it.

    Args:
        model (nn.Module): The model, in eval mode.
        task (str): Its task.
        trained (Trained): Its config and the meta information of its data set.
        device (torch.device): Device of the model.

    Attributes:
        model (nn.Module): The model: mmseg's segmentor, mmpretrain's classifier, or a
            :class:`.StudentModel`.
        config (Config): The config that trained it.
        task (str): ``'segmentation'``, ``'classification'`` or ``'pretraining'``.
        classes (tuple[str, ...] | None): Names of the classes, if they are known.
        palette (list[list[int]] | None): RGB color of each class of a segmentor.
        num_classes (int | None): Number of classes; None for pre-training.
        device (torch.device): Device of the model.
        steps (list[dict]): The transforms of an image, which are those of the config's
            test pipeline.
        preprocessing (Preprocessing): Applies them.
    """

    def __init__(
        self, model: nn.Module, task: str, trained: Trained, device: torch.device
    ):
        self.model, self.config, self.task = model.to(device), trained.config, task
        self.device = device
        self._trained = trained
        self.num_classes = _number_of_classes(model, task)
        self.classes = names_of(trained.meta) if self.num_classes else None
        palette = trained.meta.get('palette')
        if self.num_classes == 2 and self.classes and len(self.classes) == 1:
            # mmseg's heads of a single channel may have a single name, too.
            self.classes = ('background', *self.classes)
            palette = [[0, 0, 0], *palette] if palette else None
        if self.classes and len(self.classes) != self.num_classes:
            raise ConfigError(
                f'the model in {trained.checkpoint!r} has {self.num_classes} classes, '
                f'but its data set has {len(self.classes)} names of classes: give a '
                'config whose data set has the names of the classes that were trained'
            )
        self.palette = None
        if task == 'segmentation':
            try:
                self.palette = complete_palette(palette, self.num_classes)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f'the palette of the classes in {trained.checkpoint!r} cannot be '
                    f'used: {first_line(error)}'
                ) from error
        try:
            self.steps = test_steps(self.config, model, task)
            with trained.building(self.steps):
                self.preprocessing = Preprocessing(self.steps)
        except (ConfigError, CheckpointError):
            raise
        except Exception as error:
            raise ConfigError(
                f'the test pipeline in the config of {trained.checkpoint!r} cannot be '
                f'built: {type(error).__name__}: {first_line(error)}'
            ) from error

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(task={self.task!r}, '
            f'model={type(self.model).__name__}, num_classes={self.num_classes}, '
            f'device={str(self.device)!r})'
        )

    def preprocess(self, image: Any, tta: bool = False) -> dict:
        """Load an image and apply the config's test pipeline to it.

        Args:
            image (str | Path | PIL.Image.Image | ndarray): See :meth:`predict`.
            tta (bool): Whether to make all views of test-time augmentation. Defaults to
                False.

        Returns:
            dict: ``inputs``, [C, h, w], not normalized yet, and ``data_samples``. With
            ``tta``, lists of one for each view.

        Raises:
            UnreadableImage: If the file is missing, empty, damaged or no image.
        """
        return (self._tta[0] if tta else self.preprocessing)(image)

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 1,
        probabilities: bool = False,
        tta: bool = False,
        amp: bool = False,
    ) -> Result | list[Result]:
        """Predict one image or several.

        Args:
            images (Any): An image, or a list or another iterable of images. An image is
                the path of a file, a PIL image, or an array [H, W, 3] in RGB order or
                [H, W]. A model of other channels is given arrays [H, W, C] in the order
                of the channels in the files that it was trained with.
            batch_size (int): Number of images that are computed together. Images that
                the pipeline leaves at different sizes are computed one after another.
                Defaults to 1.
            probabilities (bool): Whether segmentations have ``probabilities``. Defaults
                to False.
            tta (bool): Whether to average over the config's test-time augmentations. A
                classifier without any averages over the image and its mirror image.
                Defaults to False.
            amp (bool): Whether to compute in mixed precision. Defaults to False.

        Returns:
            Segmentation | Classification | Features | list: The result, or one for each
            image of a list.

        Raises:
            UnreadableImage: If a file is missing, empty, damaged or no image.
            ConfigError: If an image does not fit the model, or the config does not have
                what is asked for.
        """
        options = dict(
            batch_size=batch_size, probabilities=probabilities, tta=tta, amp=amp
        )
        if _is_one(images):
            return next(self.stream([images], **options))
        return list(self.stream(images, **options))

    def stream(
        self,
        images: Iterable,
        *,
        batch_size: int = 1,
        probabilities: bool = False,
        tta: bool = False,
        amp: bool = False,
        skip: Report | None = None,
    ) -> Iterator[Result | None]:
        """Predict images one after another, without keeping what was predicted.

        Args:
            images (Iterable): The images, which may be generated.
            batch_size (int): See :meth:`predict`.
            probabilities (bool): See :meth:`predict`.
            tta (bool): See :meth:`predict`.
            amp (bool): See :meth:`predict`.
            skip (Callable, optional): Is called with an image that cannot be read, or
                does not fit the model, and the error; None then takes the place of its
                result. Defaults to None: the error is raised.

        Yields:
            Segmentation | Classification | Features | None: The result of each image,
            in the order of the images.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: expected at least 1')
        if tta and self.task == 'pretraining':
            raise ConfigError(
                'features of a pre-trained student have no test-time augmentation: '
                'leave out tta'
            )
        if tta:
            _ = self._tta  # An error in the config is none of the images'.
        settings = dict(probabilities=probabilities, tta=tta, amp=amp)
        batch = []
        for image in images:
            batch.append((image, self._sample(image, tta, skip)))
            if len(batch) == batch_size:
                yield from self._predict_batch(batch, skip, settings)
                batch = []
        yield from self._predict_batch(batch, skip, settings)

    def _sample(self, image: Any, tta: bool, skip: Report | None) -> dict | None:
        """Preprocess an image; None if it is skipped."""
        try:
            return self.preprocess(image, tta)
        except ConfigError as error:
            if skip is None:
                raise
            skip(image, error)
            return None

    def _predict_batch(
        self, batch: list[tuple], skip: Report | None, settings: dict
    ) -> list[Result | None]:
        results = [None] * len(batch)
        groups = _of_one_size([sample for _, sample in batch])
        while groups:
            group = groups.pop(0)
            try:
                predicted = self._predict_group([batch[i][1] for i in group], settings)
            except (RuntimeError, ValueError, AssertionError) as error:
                if len(group) > 1:  # Memory may be enough for each alone.
                    groups = [[i] for i in group] + groups
                    continue
                image, sample = batch[group[0]]
                failed = ConfigError(_failed(image, sample, error))
                if skip is None:
                    raise failed from error
                skip(image, failed)
                continue
            for i, result in zip(group, predicted):
                results[i] = result(batch[i][0])
        return results

    @torch.no_grad()
    def _predict_group(self, samples: list[dict], settings: dict) -> list[Callable]:
        with autocast(device_type=self.device.type, enabled=settings['amp']):
            data = pseudo_collate(samples)
            return self._compute(data, settings['probabilities'], settings['tta'])

    def _compute(self, data: dict, probabilities: bool, tta: bool) -> list[Callable]:
        """Compute the results of a batch; the image is yet to be put into each."""
        if self.task == 'pretraining':
            return self._features(data)
        if not tta:
            return [
                self._result(sample, probabilities)
                for sample in self.model.test_step(data)
            ]
        merging = self._tta[1]
        views = [
            {key: values[k] for key, values in data.items()}
            for k in range(len(data['inputs']))
        ]
        samples = [self.model.test_step(view) for view in views]
        means = [None] * len(samples[0])
        if probabilities and self.task == 'segmentation':
            means = [
                torch.stack([_probabilities(s) for s in of_image]).mean(0)
                for of_image in zip(*samples)
            ]
        merged = merging.merge_preds(list(zip(*samples)))
        return [
            self._result(sample, probabilities, mean)
            for sample, mean in zip(merged, means)
        ]

    def _result(
        self, sample: Any, probabilities: bool, mean: Tensor | None = None
    ) -> Callable:
        if self.task == 'classification':
            scores = sample.pred_score.float().cpu().numpy()
            return lambda image: Classification(scores, self.classes, image)
        labels = sample.pred_sem_seg.data
        labels = labels.reshape(labels.shape[-2:])
        kind = np.uint8 if self.num_classes <= 255 else np.uint16
        labels = labels.cpu().numpy().astype(kind)
        if probabilities:
            mean = _probabilities(sample) if mean is None else mean
            mean = mean.float().cpu().numpy()
        reader = self.preprocessing.load.picture
        return lambda image: Segmentation(
            labels, mean, self.classes, self.palette, image, reader
        )

    def _features(self, data: dict) -> list[Callable]:
        inputs = self.model.data_preprocessor(data)['inputs']
        backbone = self.model.backbone
        if isinstance(backbone, MaskDistillViT):
            # The copy shares the weights, and other threads may use the backbone.
            backbone = copy.copy(backbone)
            backbone.output_cls_token, backbone.out_type = True, 'featmap'
        out = backbone(inputs)[-1]
        maps, cls = out if isinstance(out, tuple) else (out, None)
        patches = maps.float().permute(0, 2, 3, 1).cpu().numpy()  # [B, h, w, D]
        tokens = [None] * len(patches) if cls is None else cls.float().cpu().numpy()
        return [
            lambda image, p=p, token=token: Features(
                np.ascontiguousarray(p), token, image
            )
            for p, token in zip(patches, tokens)
        ]

    @cached_property
    def _tta(self) -> tuple[Preprocessing, nn.Module]:
        """The pipeline of test-time augmentation, and what merges predictions."""
        steps, merging = tta_steps(self.config, self.steps)
        with self._trained.building([steps, merging]):
            return Preprocessing(steps), MODELS.build(dict(merging, module=self.model))


def _is_one(images: Any) -> bool:
    """Tell whether something is a single image and not several."""
    if isinstance(images, np.ndarray):
        if images.ndim == 4:
            raise ConfigError(
                f'images is an array of shape {list(images.shape)}: expected a list '
                'of arrays [H, W, 3] (RGB)'
            )
        return True
    return isinstance(images, (str, bytes)) or not isinstance(
        images, (Sequence, Iterable)
    )


def _number_of_classes(model: nn.Module, task: str) -> int | None:
    if task == 'segmentation':
        head = model.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return 2 if head.out_channels == 1 else head.num_classes
    if task == 'classification':
        return getattr(model.head, 'num_classes', None)
    return None


def _of_one_size(samples: list[dict | None]) -> list[list[int]]:
    """Group the indices of samples whose inputs have the same shapes."""
    groups = {}
    for i, sample in enumerate(samples):
        if sample is not None:
            views = sample['inputs']
            views = views if isinstance(views, list) else [views]
            groups.setdefault(tuple(view.shape for view in views), []).append(i)
    return list(groups.values())


def _failed(image: Any, sample: dict, error: Exception) -> str:
    """Say that the model fails on an image."""
    name = f"'{image}'" if isinstance(image, (str, os.PathLike)) else 'in memory'
    view = sample['inputs'][0] if isinstance(sample['inputs'], list) else None
    height, width = (sample['inputs'] if view is None else view).shape[-2:]
    return (
        f'the model fails on the image {name}, which the pipeline gives it as '
        f'{height} x {width} pixels: {type(error).__name__}: {first_line(error)}'
    )


def _probabilities(sample: Any) -> Tensor:
    """Return the probabilities [C, H, W] of a segmented image."""
    logits = sample.seg_logits.data.float()
    if len(logits) > 1:
        return logits.softmax(0)
    # mmseg has applied the sigmoid to the only channel, which is the second class.
    return torch.cat([1 - logits, logits])
