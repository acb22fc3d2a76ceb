"""Choose the settings of a new project from its data, its budget and the machine."""

import math
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch

# Share of the minutes that pre-training takes if a training with labels follows
PRETRAINING = 2 / 3
# The longest schedules that are published: MAE has 1600 epochs, and small data sets
# such as DRIVE are segmented in 1000 passes or more.
MOST_EPOCHS = 1600
MOST_PASSES = 1000
FEWEST_STEPS = 100
WARMUP = 0.05
# Most validations of a training, and the share of its time that they may take
VALIDATIONS = 5
VALIDATION_SHARE = 0.2


class Machine(NamedTuple):
    """What trains.

    Attributes:
        gpu (str): Name of the GPU; empty if there is none.
        memory (float): Memory of the GPU in GiB.
        cores (int): Number of processor cores that this process may use.
    """

    gpu: str
    memory: float
    cores: int

    def describe(self) -> str:
        """Name the machine."""
        cores = f'{self.cores} processor core{"s" * (self.cores > 1)}'
        if self.gpu:
            return f'{self.gpu} with {self.memory:.0f} GiB, {cores}'
        return f'no GPU, {cores}'


def validation_steps(
    images: int, batch: int, sizes: Sequence[tuple[int, int]], settings: 'Settings'
) -> float:
    """Estimate how many steps take as long as a validation of a segmentation.

    A forward pass takes a third of a step, and each window is one.

    Args:
        images (int): Number of images for validation.
        batch (int): Images per step.
        sizes (Sequence[tuple[int, int]]): Width and height of images like these.
        settings (Settings): The settings.

    Returns:
        float: The number of steps.
    """
    window = settings.window
    stride = window * 2 // 3

    def windows(side: int) -> int:
        return max(1, math.ceil((side * settings.zoom - window) / stride) + 1)

    mean = sum(windows(width) * windows(height) for width, height in sizes) / len(sizes)
    return images * mean / batch / 3


def find_machine() -> Machine:
    """Find out what this machine has."""
    linux = sys.platform == 'linux'
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    if not torch.cuda.is_available():
        return Machine('', 0.0, cores)
    properties = torch.cuda.get_device_properties(0)
    return Machine(properties.name, properties.total_memory / 2**30, cores)


class Settings(NamedTuple):
    """The settings of a project that do not follow from the data alone.

    Attributes:
        small (bool): Whether the student is the quickstart's and not ViT-B/16.
        crop (int): Side of the images in pre-training and classification, in pixels.
        window (int): Side of the windows in segmentation, in pixels.
        zoom (float): Factor by which images are resized before windows are cut out.
        batch (int): Images per step of pre-training.
        lr (float | None): Learning rate of pre-training; None is the base config's.
        seg_batch (int): Images per step of segmentation.
        seg_lr (float | None): Learning rate of segmentation; None is the base config's.
        cls_batch (int): Images per step of classification.
        cls_lr (float | None): Learning rate of classification, likewise.
        workers (int): Processes that load images.
    """

    small: bool
    crop: int
    window: int
    zoom: float
    batch: int
    lr: float | None
    seg_batch: int
    seg_lr: float | None
    cls_batch: int
    cls_lr: float | None
    workers: int


def choose_settings(
    machine: Machine,
    images: int,
    labeled: int,
    short_side: int,
    are_photographs: bool,
    small: bool | None = None,
) -> Settings:
    """Choose the settings for one machine and an amount of data.

    The rules, each with its reason:

    - With a GPU, the student is ViT-B/16 as in the recipes, at 224 pixels, the size
      that CLIP was trained with. Without one, it is the quickstart's student at 128
      pixels, for which all settings were searched.
    - A batch is what fits in the memory of the GPU (a quarter of it stays free, as far
      as this can be known), or the quickstart's. It is never larger than the data.
    - A learning rate is meant for a batch: AdamW's is scaled with the square root of
      the batch size.
    - A window is at most as large as the images, so that it is not mostly padding, a
      multiple of 32 because the feature maps are halved once, and at most 512 pixels
      with a GPU and 128 without.
    - Photographs of several megapixels are made smaller until their short side has
      less than 1024 pixels: windows of their full size would show parts of objects.
      Other images, such as scans and satellite images, keep their size.
    - On a processor, workers take time from the training, so that there is only one.

    Args:
        machine (Machine): The machine.
        images (int): Number of images for pre-training.
        labeled (int): Number of labeled images for training; 0 without labels.
        short_side (int): Median of the images' shorter sides, in pixels.
        are_photographs (bool): Whether the images are JPEG files.
        small (bool, optional): Whether to take the small student. Defaults to None, if
            there is no GPU.

    Returns:
        Settings: The settings.
    """
    gpu = bool(machine.gpu)
    small = not gpu if small is None else small
    largest = 512 if gpu else 128
    zoom = 1.0
    while are_photographs and short_side * zoom >= 1024:
        zoom /= 2
    window = min(largest, max(64, int(short_side * zoom) // 32 * 32))
    if gpu:
        steps = [(70, 256, 16), (35, 128, 16), (20, 128, 8), (10, 64, 4), (0, 32, 2)]
        batch, seg_batch = next(b for least, *b in steps if machine.memory >= least)
    else:
        batch, seg_batch = 32, 8
    cls_batch = 64 if gpu else 17
    batch = min(batch, images)
    # Batch norm in the heads needs two images.
    seg_batch = max(2, min(seg_batch, labeled or seg_batch))
    cls_batch = max(2, min(cls_batch, labeled or cls_batch))
    return Settings(
        small=small,
        crop=128 if small else 224,
        window=window,
        zoom=zoom,
        batch=batch,
        lr=_scaled(2e-3, batch, 32) if small else _scaled(1.5e-3, batch, 2048),
        seg_batch=seg_batch,
        seg_lr=_scaled(8e-3, seg_batch, 8) if small else _scaled(1e-4, seg_batch, 16),
        cls_batch=cls_batch,
        cls_lr=_scaled(2e-3, cls_batch, 17) if small else _scaled(2e-4, cls_batch, 64),
        workers=min(8, machine.cores) if gpu else min(1, machine.cores - 1),
    )


def _scaled(lr: float, batch: int, meant_for: int) -> float:
    return float(f'{lr * math.sqrt(batch / meant_for):.2g}')


class Length(NamedTuple):
    """The length of a training.

    Attributes:
        epochs (int): Number of passes over the data, rounded up.
        steps (int): Number of steps.
        interval (int): Epochs or steps from one checkpoint and validation to the next.
        note (str): What was assumed, and how long it takes.
    """

    epochs: int
    steps: int
    interval: int
    note: str


def choose_length(
    images: int,
    batch: int,
    by_epoch: bool,
    epochs: int | None,
    seconds: float = 0.0,
    per_step: float = 0.0,
    validation: float = 0.0,
) -> Length:
    """Choose how long to train.

    Args:
        images (int): Number of images.
        batch (int): Images per step.
        by_epoch (bool): Whether the training counts epochs, and not steps.
        epochs (int | None): Number of passes that the user asks for.
        seconds (float): The budget, if no number of passes is given. Defaults to 0.
        per_step (float): Measured seconds of a step, likewise. Defaults to 0.
        validation (float): Number of steps that take as long as one validation.
            Defaults to 0.

    Returns:
        Length: The length.
    """
    per_epoch = math.ceil(images / batch)
    # A schedule of steps has a warm-up and a decay, of one step each at least.
    fewest = 1 if by_epoch else 2
    if epochs is None:
        affordable = seconds / per_step
        spent = _validations(affordable, validation) * validation
        steps = max(fewest, int(max(affordable - spent, affordable / 2)))
        most = (MOST_EPOCHS if by_epoch else MOST_PASSES) * per_epoch
        steps = min(steps, max(most, fewest))
        epochs = max(1, round(steps / per_epoch))
        if by_epoch:
            steps = epochs * per_epoch
    else:
        steps, most = max(fewest, epochs * per_epoch), math.inf
    count = _validations(steps, validation)
    step, image = ('step' + 's' * (steps > 1), 'image' + 's' * (images > 1))
    note = f'{steps} {step} of {batch} image{"s" * (batch > 1)}, '
    note += f'{steps * batch / images:.3g} times {images} {image}'
    if per_step:
        total = (steps + count * validation) * per_step
        note += f', about {_minutes(total)} ({per_step:.2g} s a step, measured here)'
        if steps == most:
            note += '; more would be of little use'
        elif total > 1.5 * seconds:
            note += f'. Less than this does not fit in {_minutes(seconds)}'
        elif steps < FEWEST_STEPS:
            note += '. So short a training learns little: give more --minutes'
    interval = max(1, math.ceil((epochs if by_epoch else steps) / count))
    return Length(epochs, steps, interval, note)


def _validations(steps: float, validation: float) -> int:
    """Return how often to validate without spending much of a training on it."""
    if not validation:
        return VALIDATIONS
    return min(VALIDATIONS, max(1, int(VALIDATION_SHARE * steps / validation)))


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f'{seconds:.0f} s'
    if seconds < 90 * 60:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'
