"""Random jittered crops whose pixels are computed on the device, a batch at once.

A core decodes the image, draws the crop, the flip and the jitter, and cuts the crop
out. The device resizes, flips and jitters the crops, which have different sizes. The
pictures are those of ``RandomJitteredCrop``, rounding included.
"""

from collections.abc import Callable

import numpy as np
import torch
from command_line import fail
from mmcv.transforms import Compose
from prettytable import PrettyTable
from torch import Tensor

from mmmaskdistill.datasets.jittered_crop import (
    GREY,
    RandomJitteredCrop,
    _contrast,
    _mean_before_contrast,
    _saturation,
)

from . import measure

# OpenCV multiplies the channels of 8 bits with matrices that are rounded to this.
OPENCV_UNIT = 1 / 1024
# torch resizes images of 8 bits with weights that are integers of 16 bits, divided by
# a power of two that has at most this exponent.
MAX_EXPONENT = 22
# Images in the timed batch of a GPU, as in the recipe of ViT-B/16.
GPU_BATCH = 256
# Most levels (units of 1/255) by which a value may differ from that of the CPU, and the
# largest share of values that may differ. Sums of more than 24 bits, which crops have
# that are more than twice as large as the picture, are rounded in float32, so that
# rarely a level differs by one. Saturation, brightness and contrast make up to 1.8, 1.4
# and 1.4 of it, which are less than four, and one more when the results are rounded.
MOST_LEVELS, MOST_VALUES = 5, 1e-3


def compare(
    files: list[str],
    load: dict,
    options: dict,
    repeats: int,
    device: torch.device,
) -> dict:
    """Time the work of a core and of the device, and print the table.

    Both ways end with a batch of pictures. That of the device starts with the copy of
    the packed crops to it.

    Args:
        files (list[str]): Image files.
        load (dict): Config of the transform that loads a file.
        options (dict): Arguments of ``RandomJitteredCrop``, without a second scale and
            an interpolation.
        repeats (int): Number of timed passes over the images, and of timed batches.
        device (torch.device): Device of the second part.

    Returns:
        dict: Seconds per image of ``whole`` (all of it on a core), ``cut`` (a core
        up to the crop) and ``device`` (the rest), each with its quartiles; ``machine``;
        ``batch``, the images in a batch of the device; ``levels``, the largest
        difference between the two ways; and ``differing``, the share of values that
        differ.

    Raises:
        SystemExit: If the device computes other pictures than the CPU.
    """
    whole = Compose([load, RandomJitteredCrop(**options)])
    cut = Compose([load, RandomCropForDevice(**options)])
    scale = whole.transforms[1].scale

    def batch_of(pipeline: Callable, collate: Callable, files: list[str]) -> Callable:
        return lambda: collate([pipeline(dict(img_path=file)) for file in files])

    result = compare_values(
        batch_of(whole, stack, files), batch_of(cut, pack, files), scale, device
    )
    cpu = torch.device('cpu')
    seconds = measure.interleave(
        dict(whole=batch_of(whole, stack, files), cut=batch_of(cut, pack, files)),
        repeats,
        cpu,
    )
    for name, times in seconds.items():
        result[name] = measure.spread([t / len(files) for t in times])

    if device.type == 'cuda':
        files = (files * GPU_BATCH)[:GPU_BATCH]
    batch = batch_of(cut, pack, files)()
    if device.type == 'cuda':
        batch = {key: value.pin_memory() for key, value in batch.items()}
    seconds = measure.interleave(
        dict(device=lambda: pictures(to_device(batch, device), scale)), repeats, device
    )
    result['device'] = measure.spread([t / len(files) for t in seconds['device']])
    result.update(batch=len(files), machine=measure.machine(device))
    print_table(result)
    return result


def print_table(result: dict) -> None:
    """Print the table of the two ways.

    Args:
        result (dict): Result of :func:`compare`.
    """
    table = PrettyTable(
        [
            'pixels computed by',
            'ms of a core per image (quartiles)',
            'images/s of a core',
            'of a core saved',
            'images/s of the device',
        ],
        align='r',
    )
    saved = 1 - result['cut']['median'] / result['whole']['median']
    for title, key, *cells in (
        ('core', 'whole', '', ''),
        ('device', 'cut', f'{saved:.0%}', f'{1 / result["device"]["median"]:.0f}'),
    ):
        ms = {name: f'{1e3 * value:.3f}' for name, value in result[key].items()}
        spread = f'{ms["median"]} ({ms["low"]} to {ms["high"]})'
        table.add_row([title, spread, f'{1 / result[key]["median"]:.0f}', *cells])
    print(table)
    print(
        f'device: {result["machine"]}, batch {result["batch"]}; its pictures differ '
        f'from those of the core by {result["levels"]}/255 at most, in '
        f'{result["differing"]:.1e} of the values'
    )


def compare_values(
    whole: Callable, cut: Callable, scale: tuple[int, int], device: torch.device
) -> dict:
    """Compare the pictures of the device with those of the CPU, for the same draws.

    Args:
        whole (Callable): Makes a batch of pictures, [B, h, w, 3] uint8.
        cut (Callable): Makes a batch of packed crops of the same images.
        scale (tuple[int, int]): Height and width of the pictures, in pixels.
        device (torch.device): The device.

    Returns:
        dict: ``levels``, the largest difference in units of 1/255, and ``differing``,
        the share of values that differ.

    Raises:
        SystemExit: If they differ by more than ``MOST_LEVELS``, or in a larger share
            than ``MOST_VALUES``.
    """
    np.random.seed(0)
    expected = whole().permute(0, 3, 1, 2).int()
    np.random.seed(0)
    found = pictures(to_device(cut(), device), scale).cpu().int()
    difference = (found - expected).abs()
    levels = int(difference.max())
    differing = (difference > 0).double().mean().item()
    if levels > MOST_LEVELS or differing > MOST_VALUES:
        fail(
            f'the pictures that {device} computes differ from those of the CPU by up '
            f'to {levels}/255, in {differing:.2%} of the values: expected at most '
            f'{MOST_LEVELS}/255, in {MOST_VALUES:.2%}; nothing was timed'
        )
    return dict(levels=levels, differing=differing)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to a device, without waiting if its memory is pinned."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def stack(samples: list[dict]) -> Tensor:
    """Stack pictures of one size, [B, h, w, 3]."""
    return torch.from_numpy(np.stack([sample['img'] for sample in samples]))


class RandomCropForDevice(RandomJitteredCrop):
    """Draw what ``RandomJitteredCrop`` draws, but only cut the crop out.

    The images are RGB of 8 bits, and the resizing is bicubic. The transform sets
    ``img`` to the crop, [h, w, 3] uint8, in the size that it has in the image. ``flip``
    tells whether the picture is to be flipped. The three jitters are to be applied one
    after the other: each multiplies the channels of a pixel with a matrix, adds a
    number, and cuts the result to whole numbers from 0 to 255.
    ``jitter_matrices`` is [3, 3, 3] float32 and ``jitter_offsets`` is [3] float32.
    """

    def transform(self, results: dict) -> dict:
        """Cut the crop out of an image, see the class."""
        image = self._checked(results)
        top, left, height, width = self.rand_crop_params(image)
        jitters = self.draw_jitter()
        mean = _mean_before_contrast(image, jitters)
        matrices = np.tile(np.eye(3, dtype=np.float32), (3, 1, 1))
        offsets = np.zeros(3, dtype=np.float32)
        for k, (jitter, factor) in enumerate(jitters):
            matrices[k] *= np.float32(factor)
            if jitter is _contrast:
                offsets[k] = mean * (1 - factor)
            elif jitter is _saturation:
                matrix = factor * np.eye(3) + (1 - factor) * GREY
                matrices[k] = np.rint(matrix / OPENCV_UNIT) * OPENCV_UNIT
                offsets[k] = 0.5  # OpenCV rounds to the nearest number.
        return dict(
            img=image[top : top + height, left : left + width],
            flip=self.draw_flip(),
            jitter_matrices=matrices,
            jitter_offsets=offsets,
        )


def pack(samples: list[dict]) -> dict[str, Tensor]:
    """Pack crops of different sizes into one batch.

    A batch needs as much memory as if all its crops had the largest height and the
    largest width.

    Args:
        samples (list[dict]): Results of :class:`RandomCropForDevice`.

    Returns:
        dict[str, Tensor]: ``crops``, [B, H, W, 3] uint8, where H and W are the largest
        sizes and what is outside a crop is arbitrary; ``sizes``, [B, 2], the height
        and width of each crop; ``flip``, [B] bool; ``jitter_matrices``, [B, 3, 3, 3];
        and ``jitter_offsets``, [B, 3].
    """
    sizes = torch.tensor([sample['img'].shape[:2] for sample in samples])
    crops = torch.empty((len(samples), *sizes.amax(0), 3), dtype=torch.uint8)
    for rows, sample in zip(crops.numpy(), samples, strict=True):
        height, width, _ = sample['img'].shape
        rows[:height, :width] = sample['img']
    jitters = {
        key: torch.from_numpy(np.stack([sample[key] for sample in samples]))
        for key in ('jitter_matrices', 'jitter_offsets')
    }
    flip = torch.tensor([sample['flip'] for sample in samples])
    return dict(crops=crops, sizes=sizes, flip=flip, **jitters)


def pictures(batch: dict[str, Tensor], scale: tuple[int, int]) -> Tensor:
    """Resize, flip and jitter packed crops.

    Args:
        batch (dict[str, Tensor]): Result of :func:`pack`, on any device.
        scale (tuple[int, int]): Height and width of the pictures, in pixels.

    Returns:
        Tensor: The pictures, [B, 3, *scale] uint8.
    """
    crops = batch['crops'].float()
    size, height, width, _ = crops.shape
    down = resizing_matrices(batch['sizes'][:, 0], height, scale[0])
    across = resizing_matrices(batch['sizes'][:, 1], width, scale[1])
    # Reversing the order of the new columns flips the picture.
    across = torch.where(batch['flip'][:, None, None], across.flip(1), across)

    # torch resizes the rows first, and rounds after each of the two steps.
    rows = crops.transpose(2, 3).flatten(1, 2) @ across.mT  # [B, H * 3, w]
    rows = _whole(rows + 0.5).view(size, height, -1)
    out = _whole(down @ rows + 0.5).view(size, scale[0], 3, scale[1])
    out = out.transpose(1, 2).flatten(2)  # [B, 3, h * w]
    for k in range(3):
        matrices = batch['jitter_matrices'][:, k]
        out = _whole(matrices @ out + batch['jitter_offsets'][:, k, None, None])
    return out.view(size, 3, *scale).byte()


def resizing_matrices(sizes: Tensor, longest: int, new: int) -> Tensor:
    """Return the matrices of bicubic resizing with antialiasing along one axis.

    The weights are those that torch and Pillow use for images of 8 bits.

    Args:
        sizes (Tensor): Sizes of the axis, [B].
        longest (int): Number of columns of the matrices, which is at least the largest
            size. Columns from the size on are zero.
        new (int): Size after resizing.

    Returns:
        Tensor: The matrices, [B, new, longest] float32.
    """
    sizes = sizes.double()[:, None, None]
    old = torch.arange(longest, device=sizes.device, dtype=torch.float64)
    ratio = sizes / new
    stretch = ratio.clamp(min=1)  # of the filter, when the image becomes smaller
    center = ratio * (torch.arange(new, device=sizes.device)[:, None] + 0.5)
    first = (center - 2 * stretch + 0.5).floor()
    last = (center + 2 * stretch + 0.5).floor().minimum(sizes)

    x = ((old - center + 0.5) / stretch).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = torch.where((old >= first) & (old < last), weights, 0.0)
    weights = weights / weights.sum(2, keepdim=True)

    greatest = weights.amax((1, 2), keepdim=True)
    exponent = ((2**15 - 0.5) / greatest).log2().ceil() - 1
    unit = 2 ** -exponent.clamp(max=MAX_EXPONENT)
    # Half numbers are rounded away from zero.
    weights = ((weights / unit).abs() + 0.5).floor() * unit * weights.sign()
    return weights.float()


def _whole(levels: Tensor) -> Tensor:
    return levels.clamp(0, 255).floor()
