"""Which classes are confused in a test, and which images are predicted worst."""

import heapq
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmmaskdistill.errors import ConfigError

from .collectors import Collector
from .probes import confusion

# Longest side of the label maps that are kept for the picture of the worst images.
KEPT_SIDE = 512


class WorstSegmentation(NamedTuple):
    """An image whose segmentation is among the worst.

    Attributes:
        score (float): Mean IoU of the image in percent, see
            :class:`SegmentationReport`.
        accuracy (float): Share of its labeled pixels that are correct, in percent.
        position (int): Position of the image in the data set.
        path (str | None): Path of the image.
        truth (np.ndarray): True labels [h, w], int32, of which rows and columns are
            left out if the image is large. -1 where no class is labeled.
        prediction (np.ndarray): Predicted labels [h, w], int32.
    """

    score: float
    accuracy: float
    position: int
    path: str | None
    truth: np.ndarray
    prediction: np.ndarray

    @property
    def badness(self) -> tuple:
        """What is larger for a worse image; no two images are equal."""
        return -self.score, -self.accuracy, -self.position

    def summary(self, classes: list[str]) -> dict:
        """Return what is written to a JSON file.

        Args:
            classes (list[str]): Names of the classes, which are not used.
        """
        return dict(
            image=self.path,
            mIoU=round(self.score, 2),
            aAcc=round(self.accuracy, 2),
        )


class WorstClassification(NamedTuple):
    """An image of another class than the one predicted.

    Attributes:
        score (float): Score of the predicted class in percent.
        position (int): Position of the image in the data set.
        path (str | None): Path of the image.
        truth (int): The true class.
        prediction (int): The predicted class.
    """

    score: float
    position: int
    path: str | None
    truth: int
    prediction: int

    @property
    def badness(self) -> tuple:
        """What is larger for a worse image; no two images are equal."""
        return self.score, -self.position

    def summary(self, classes: list[str]) -> dict:
        """Return what is written to a JSON file.

        Args:
            classes (list[str]): Names of the classes.
        """
        return dict(
            image=self.path,
            label=classes[self.truth],
            prediction=classes[self.prediction],
            score=round(self.score, 2),
        )


class _Report(Collector):
    """Counts of all pairs of true and predicted classes, and the worst images.

    Args:
        size (int): Number of images of the data set.
        worst (int): How many of the worst images to keep. Defaults to 0.
        required (bool): Whether to raise an error if there is something that cannot
            be counted, such as images without labels. Otherwise nothing is counted
            then. Defaults to False.

    Attributes:
        matrix (Tensor | None): The counts, int64; the rows are the true classes.
            They count all processes after the test, in the first process. None if
            nothing can be counted.
        worst (list): The worst images, the worst first, likewise.
    """

    def __init__(self, size: int, worst: int = 0, required: bool = False):
        super().__init__(size)
        self.matrix: Tensor | None = None
        self.worst = []
        self.required = required
        self._countable = True
        self._number = worst
        self._heap = []

    def state(self) -> tuple:
        """Return the counts and the worst images of this process."""
        matrix = None if self.matrix is None else self.matrix.cpu()
        return matrix, [image for _, image in self._heap], self._countable

    def finish(self, states: list) -> None:
        """Add up the counts, and choose the worst of all images."""
        if not all(countable for _, _, countable in states):
            self.matrix, self.worst = None, []
            return
        matrices = [matrix for matrix, _, _ in states if matrix is not None]
        self.matrix = torch.stack(matrices).sum(0) if matrices else None
        images = [image for _, worst, _ in states for image in worst]
        images.sort(key=lambda image: image.badness, reverse=True)
        self.worst = images[: self._number]

    def _skip(self, message: str) -> None:
        if self.required:
            raise ConfigError(message)
        self._countable = False

    def _count(self, matrix: Tensor) -> None:
        self.matrix = matrix if self.matrix is None else self.matrix + matrix

    def _keep(self, badness: tuple) -> bool:
        """Tell whether an image is among the worst so far."""
        full = len(self._heap) >= self._number
        return self._number > 0 and (not full or badness > self._heap[0][0])

    def _push(self, image: WorstSegmentation | WorstClassification) -> None:
        heapq.heappush(self._heap, (image.badness, image))
        if len(self._heap) > self._number:
            heapq.heappop(self._heap)


class SegmentationReport(_Report):
    """Pixels of each pair of classes, and the images that are segmented worst.

    The score of an image is the mean of the IoU of the classes that its label has. An
    image without a labeled pixel has no score, and is left out of the worst images.

    ``matrix`` is [K+1, K+1]. Its last row counts the pixels whose label is neither
    ignored nor a class, and its last column counts predictions that are no class.
    mmseg's ``IoUMetric`` counts such pixels in the same way.

    Args:
        size (int): Number of images of the data set.
        worst (int): How many of the worst images to keep. Defaults to 0.
        required (bool): See :class:`_Report`. Defaults to False.
        ignore_index (int): Label of pixels that do not count. Defaults to 255.
    """

    task = 'segmentation'

    def __init__(
        self,
        size: int,
        worst: int = 0,
        required: bool = False,
        ignore_index: int = 255,
    ):
        super().__init__(size, worst, required)
        self.ignore_index = ignore_index

    def add(self, position: int, sample: dict) -> None:
        """Count the pixels of an image.

        Args:
            position (int): Position of the image in the order of the sampler.
            sample (dict): A segmentation, with ``pred_sem_seg`` and ``gt_sem_seg``.

        Raises:
            ConfigError: If the label has another size than the prediction, or if there
                is no label and ``required`` is set.
        """
        number, path = len(self.classes), sample.get('img_path')
        if 'gt_sem_seg' not in sample or 'pred_sem_seg' not in sample:
            return self._skip(_no_label(path))
        prediction, truth = _label_maps(sample, path)
        rest = truth.new_tensor(number)
        ignored = truth == self.ignore_index
        truth = torch.where((truth >= 0) & (truth < number) | ignored, truth, rest)
        prediction = prediction.clamp(max=number)
        matrix = confusion(prediction, truth, number + 1, self.ignore_index)
        self._count(matrix)
        if not self._number:
            return
        labeled = matrix[:number].sum(1)
        if not labeled.any():
            return
        hits, present = matrix.diagonal()[:number], labeled > 0
        union = labeled + matrix[:, :number].sum(0) - hits
        score = 100 * (hits / union)[present].double().mean().item()
        accuracy = 100 * (hits.sum() / labeled.sum()).item()
        if self._keep((-score, -accuracy, -position)):
            truth = torch.where(ignored | (truth == number), -1, truth)
            kept = (_thinned(labels) for labels in (truth, prediction))
            self._push(WorstSegmentation(score, accuracy, position, path, *kept))


class ClassificationReport(_Report):
    """Images of each pair of classes, and the wrong predictions with the best scores.

    ``matrix`` is [K, K]. Images that may have several classes cannot be counted.

    Args:
        size (int): Number of images of the data set.
        worst (int): How many of the worst images to keep. Defaults to 0.
        required (bool): See :class:`_Report`. Defaults to False.
    """

    task = 'classification'

    def add(self, position: int, sample: dict) -> None:
        """Count an image.

        Args:
            position (int): Position of the image in the order of the sampler.
            sample (dict): A classification, with ``gt_label`` and ``pred_score``.

        Raises:
            ConfigError: If the label is no class, or if ``required`` is set and there
                is no label or several.
        """
        path = sample.get('img_path')
        if 'gt_label' not in sample:
            return self._skip(_no_label(path))
        truth, scores = sample['gt_label'], sample.get('pred_score')
        if truth.numel() != 1 or scores is None:
            return self._skip(
                f"the image '{path}' has {truth.numel()} classes: --confusion and "
                '--worst need images of exactly one class'
            )
        scores = scores.flatten()
        predicted = int(scores.argmax())
        score = 100 * float(scores[predicted])
        truth = int(truth)
        number = max(len(self.classes), len(scores))
        if truth >= number:
            raise ConfigError(
                f"the image '{path}' has class {truth}, but the data set and the model "
                f'have {number} classes, which count from 0'
            )
        if self.matrix is None:
            self.matrix = torch.zeros(number, number, dtype=torch.int64)
        self.matrix[truth, predicted] += 1
        image = WorstClassification(score, position, path, truth, predicted)
        if truth != predicted and self._keep(image.badness):
            self._push(image)


def segmentation_classes(matrix: Tensor, classes: list[str]) -> list[dict]:
    """Compute the metrics of each class of a segmentation.

    They are those of mmseg's ``IoUMetric``, in percent: ``IoU``, ``Acc`` (which is also
    the recall), ``Dice`` (which is also the F-score) and ``Precision``.

    Args:
        matrix (Tensor): Counts [K+1, K+1], see :class:`SegmentationReport`.
        classes (list[str]): Names of the K classes.

    Returns:
        list[dict]: ``name``, the metrics, and the numbers of pixels that are
        ``labeled`` and ``predicted`` as the class, and of those that are ``correct``.
        A metric is None where it is not defined, such as the accuracy of a class
        that no pixel is labeled as.
    """
    number = len(classes)
    hits = matrix.diagonal()[:number].tolist()
    labeled = matrix[:number].sum(1).tolist()
    predicted = matrix[:, :number].sum(0).tolist()
    return [
        dict(
            name=name,
            IoU=_percent(hits[k], labeled[k] + predicted[k] - hits[k]),
            Acc=_percent(hits[k], labeled[k]),
            Dice=_percent(2 * hits[k], labeled[k] + predicted[k]),
            Precision=_percent(hits[k], predicted[k]),
            labeled=labeled[k],
            predicted=predicted[k],
            correct=hits[k],
        )
        for k, name in enumerate(classes)
    ]


def classification_classes(matrix: Tensor, classes: list[str]) -> list[dict]:
    """Compute the metrics of each class of a classification.

    Args:
        matrix (Tensor): Counts [K, K], see :class:`ClassificationReport`.
        classes (list[str]): Names of the K classes.

    Returns:
        list[dict]: ``name``, the ``accuracy`` (which is also the recall),
        ``precision`` and ``f1-score`` in percent, and the numbers of images that are
        ``labeled`` and ``predicted`` as the class, and of those that are ``correct``.
        A metric is None where it is not defined.
    """
    hits = matrix.diagonal().tolist()
    labeled, predicted = matrix.sum(1).tolist(), matrix.sum(0).tolist()
    return [
        {
            'name': name,
            'accuracy': _percent(hits[k], labeled[k]),
            'precision': _percent(hits[k], predicted[k]),
            'f1-score': _percent(2 * hits[k], labeled[k] + predicted[k]),
            'labeled': labeled[k],
            'predicted': predicted[k],
            'correct': hits[k],
        }
        for k, name in enumerate(classes)
    ]


def _label_maps(sample: dict, path: str | None) -> tuple[Tensor, Tensor]:
    """Return the predicted and the true label map, [H, W] int64."""
    prediction, truth = (
        label_map(sample[key]) for key in ('pred_sem_seg', 'gt_sem_seg')
    )
    if prediction.shape != truth.shape:
        raise ConfigError(
            f"the prediction of '{path}' has {_size(prediction)} pixels, but its label "
            f'has {_size(truth)}: in the test pipeline, load the label after the '
            'image has been resized, so that it keeps the size of the file'
        )
    return prediction.long(), truth.to(prediction.device).long()


def label_map(labels: dict) -> Tensor:
    """Return the labels [H, W] of a pixel data element.

    Args:
        labels (dict): ``data`` is [H, W] or [1, H, W].
    """
    return labels['data'].reshape(labels['data'].shape[-2:])


def _no_label(path: str | None) -> str:
    return (
        f"the image '{path}' has no label to compare the prediction with. Without "
        'labels, give --out FOLDER or --out FILE.pkl to write predictions'
    )


def _size(labels: Tensor) -> str:
    return ' x '.join(map(str, labels.shape))


def _thinned(labels: Tensor) -> np.ndarray:
    step = -(-max(labels.shape) // KEPT_SIDE)
    return labels[::step, ::step].int().cpu().numpy()


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
