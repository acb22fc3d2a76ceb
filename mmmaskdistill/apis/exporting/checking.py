"""Compare an exported file with the model that it was made from, on real pictures."""

import os
import os.path as osp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import cbook
from mmengine.config import Config
from PIL import Image
from torch import Tensor

from mmmaskdistill.datasets.image_files import (
    IMAGE_ENDINGS,
    UnreadableImage,
    read_image,
)
from mmmaskdistill.errors import ConfigError, first_line

from ..inference import LoadedModel
from ..inference.files import list_files
from ..inference.inputs import as_array
from ..pipelines import test_dataset
from .formats import Runner
from .networks import ExportedNetwork, SegmentationLogits, threshold_of
from .normalization import Normalization, channels_of_files

# The largest difference in 32 bits, the smallest share of equal labels in 16 bits, and
# the largest relative difference of features in 16 bits.
TOLERANCE, EQUAL_LABELS, HALF_TOLERANCE = 1e-3, 0.995, 1e-2
# Number of pictures that are taken from the config's data.
PICTURES = 4


@dataclass
class Check:
    """How the results for one batch compare.

    Attributes:
        shape (tuple[int, ...]): Shape of the batch, [B, C, H, W].
        difference (float): Largest difference. For labels, it is how much smaller the
            logit of the file's label is than the highest one.
        equal (float | None): Share of equal labels; None for features.
        relative (float): Root mean square of the difference, divided by that of the
            results; 0 for labels.
    """

    shape: tuple[int, ...]
    difference: float
    equal: float | None
    relative: float


def compare(run: Runner, network: ExportedNetwork, output: str, batch: Tensor) -> Check:
    """Compare the results of a file with those of torch, in 32 bits.

    Args:
        run (Runner): Computes the outputs of the file.
        network (ExportedNetwork): Computes the same in torch. For labels, it computes
            the logits.
        output (str): What is computed, one of :data:`.requests.OUTPUTS`.
        batch (Tensor): Normalized images, [B, C, H, W].

    Returns:
        Check: The comparison.

    Raises:
        ConfigError: If the file has other outputs than the model, or of other shapes.
    """
    with torch.no_grad():
        expected = network(batch)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    shape = tuple(batch.shape)
    try:
        given = [torch.from_numpy(array) for array in run(batch.numpy())]
    except Exception as error:  # of onnxruntime or of torch
        raise ConfigError(
            f'the exported file cannot compute images of shape {list(shape)} '
            f'({type(error).__name__}: {first_line(error)}), and was not kept. Try '
            '--size H W instead of --dynamic, or another --format'
        ) from error
    if output == 'labels':
        return _compare_labels(given[0], expected[0], network, shape)
    if [t.shape for t in given] != [t.shape for t in expected]:
        raise ConfigError(
            f'the exported file is wrong: for images {list(shape)} its outputs are '
            f'{[list(t.shape) for t in given]}, those of the model '
            f'{[list(t.shape) for t in expected]}. It was not kept'
        )
    pairs = list(zip(given, expected))
    # A number that is not finite makes the difference so, too.
    difference = max(_largest((a - b).abs()) for a, b in pairs)
    relative = max(_ratio(a - b, b) for a, b in pairs)
    equal = None
    if output == 'logits':
        labels = [_labels(logits, network) for logits in (given[0], expected[0])]
        equal = (labels[0] == labels[1]).double().mean().item()
    return Check(shape, difference, equal, relative)


def _labels(logits: Tensor, network: ExportedNetwork) -> Tensor:
    if logits.shape[1] > 1:
        return logits.argmax(1)
    threshold = 0.5
    if isinstance(network, SegmentationLogits):
        threshold = threshold_of(network.model)
    return (logits[:, 0].sigmoid() > threshold).long()


def _compare_labels(
    given: Tensor, logits: Tensor, network: ExportedNetwork, shape: tuple
) -> Check:
    expected = _labels(logits, network)
    if given.shape != expected.shape:
        raise ConfigError(
            f'the exported file is wrong: for images {list(shape)} its labels are '
            f'{list(given.shape)}, those of the model {list(expected.shape)}. It was '
            'not kept'
        )
    equal = (given == expected).double().mean().item()
    if logits.shape[1] > 1:
        chosen = logits.gather(1, given[:, None])[:, 0]
        behind = logits.amax(1) - chosen
    else:
        margin = logits[:, 0].sigmoid() - threshold_of(network.model)
        behind = margin.abs() * (given != expected)
    return Check(shape, _largest(behind), equal, 0.0)


def _largest(values: Tensor) -> float:
    return values.max().item() if values.isfinite().all() else float('inf')


def _ratio(difference: Tensor, of: Tensor) -> float:
    ratio = difference.double().norm() / of.double().norm().clamp(min=1e-12)
    return ratio.item() if ratio.isfinite() else float('inf')


def judge(checks: Sequence[Check], half: bool) -> str:
    """Judge whether an exported file computes what the model computes.

    Args:
        checks (Sequence[Check]): The comparisons.
        half (bool): Whether the file computes in 16 bits.

    Returns:
        str: What was found, in one line.

    Raises:
        ConfigError: If the results differ too much.
    """
    difference = max(check.difference for check in checks)
    shares = [check.equal for check in checks if check.equal is not None]
    equal = min(shares, default=None)
    relative = max(check.relative for check in checks)
    shapes = ', '.join(' x '.join(map(str, check.shape)) for check in checks)
    found = f'largest difference {difference:.2e}'
    if equal is not None:
        found += f', at least {100 * equal:.3f} % equal labels'
    elif half:
        found += f', relative {relative:.2e}'
    found += f' (images {shapes})'
    if not half:
        good, expected = difference <= TOLERANCE, f'at most {TOLERANCE}'
    elif equal is not None:
        good, expected = equal >= EQUAL_LABELS, f'{100 * EQUAL_LABELS} % equal labels'
    else:
        good, expected = relative <= HALF_TOLERANCE, f'at most {HALF_TOLERANCE}'
    if not good:
        advice = 'leave out --half' if half else 'try another --format'
        raise ConfigError(
            'the exported file does not compute what the model computes, and was not '
            f'kept: {found}, expected {expected}. Please {advice}'
        )
    return found


def batches(
    pictures: Sequence[Tensor],
    normalization: Normalization,
    shapes: Sequence[tuple[int, int, int]],
) -> Iterator[Tensor]:
    """Make batches of several sizes from pictures.

    Args:
        pictures (Sequence[Tensor]): Pictures [C, h, w].
        normalization (Normalization): How they are normalized.
        shapes (Sequence[tuple[int, int, int]]): Number, height and width of the images
            of each batch.

    Yields:
        Tensor: Normalized images [B, C, H, W].
    """
    for k, (number, *size) in enumerate(shapes):
        images = []
        for i in range(k, k + number):
            picture = pictures[i % len(pictures)][None].float()
            if i // len(pictures) % 2:
                picture = picture.flip(3)
            images.append(F.interpolate(picture, size, mode='bilinear', antialias=True))
        yield normalization.apply(torch.cat(images))


def find_pictures(loaded: LoadedModel, given: Sequence[str]) -> tuple[list, str]:
    """Find real pictures: those given, or of the config's data, or a photograph.

    Args:
        loaded (LoadedModel): The model.
        given (Sequence[str]): Pictures, see :func:`..inference.files.list_files`; may
            be empty.

    Returns:
        tuple[list[Tensor], str]: Pictures [C, h, w] with the channels in the order in
        which the pipeline takes them from a file, and where they are from.

    Raises:
        ConfigError: If the pictures that were given cannot be read.
    """
    channels = channels_of_files(loaded)
    if given:
        paths = list(list_files(given, IMAGE_ENDINGS).files)[:PICTURES]
        try:
            return [_read(path, channels) for path in paths], ', '.join(given)
        except (UnreadableImage, ValueError) as error:
            raise ConfigError(f'--images: {error}') from error
    for folder in _folders_of(loaded.config):
        pictures = []
        for path in _images_in(folder):
            try:
                pictures.append(_read(path, channels))
            except (UnreadableImage, ValueError):
                continue
        if pictures:
            return pictures, f'images of {folder}'
    return [_photograph(channels)], "matplotlib's photograph grace_hopper.jpg"


def _read(path: str, channels: int) -> Tensor:
    array = as_array(read_image(path))
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[2] == 4 and channels == 3:
        array = array[..., :3]
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, 2)
    if array.shape[2] != channels:
        raise ConfigError(
            f'{path!r} has {array.shape[2]} channels, the model {channels}'
        )
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).permute(2, 0, 1)


def _photograph(channels: int) -> Tensor:
    """Return a photograph that matplotlib contains, its channels repeated."""
    path = cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)
    array = np.asarray(Image.open(path).convert('RGB'), np.float32)
    picture = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return picture[[k % 3 for k in range(channels)]]


def _images_in(path: str) -> list[str]:
    """List the first images in a folder."""
    found = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        found += [
            osp.join(folder, name)
            for name in sorted(names)
            if name.lower().endswith(tuple(IMAGE_ENDINGS))
        ]
        if len(found) >= PICTURES:
            break
    return found[:PICTURES]


def _folders_of(config: Config) -> Iterator[str]:
    """Yield the folders of images that a config tests with, if they are there."""
    dataset: dict[str, Any] = test_dataset(config) or {}
    prefix = dataset.get('data_prefix') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or ''
    root, split = dataset.get('data_root') or '', dataset.get('split') or ''
    # If neither names a folder, the images are in `data_root` itself.
    for part in (prefix, split) if prefix or split else ('',):
        folder = osp.join(str(root), str(part))
        if (part or root) and osp.isdir(folder):
            yield folder
