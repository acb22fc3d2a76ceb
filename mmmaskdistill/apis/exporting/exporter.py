"""Export a trained model to a file, and check it on the spot."""

import os
import os.path as osp
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistillViT

from ..inference import LoadedModel
from .checking import Check, batches, compare, find_pictures, judge
from .description import describe, find_size, grid_limits, multiple_of
from .formats import FORMATS, exporting
from .networks import (
    DEFAULT_OUTPUTS,
    NETWORKS,
    BackboneFeatures,
    ExportedNetwork,
    SegmentationLogits,
)
from .normalization import measure_normalization, number_of_channels
from .preparation import copy_for_export
from .requests import HUGGINGFACE, ONNX_WEIGHTS, Request, check_request


@dataclass
class Exported:
    """An exported file.

    Attributes:
        path (str): The file.
        about (dict): What it says about itself.
        checks (list[Check]): How its results compare with those of torch.
        summary (str): The comparison in one line.
        pictures (str): Which pictures were compared.
    """

    path: str
    about: dict[str, Any]
    checks: list[Check]
    summary: str
    pictures: str


def export_model(
    loaded: LoadedModel,
    request: Request,
    checkpoint: str = '',
    log: Callable[[str], None] = print,
) -> Exported:
    """Export a model to a file that runs without its code.

    The file is only kept if it computes what the model computes, on pictures of several
    sizes and in batches.

    Args:
        loaded (LoadedModel): The model, from :func:`..inference.load_model`.
        request (Request): The export, not in Hugging Face's layout.
        checkpoint (str): Name of the checkpoint, which the file will contain. Defaults
            to none.
        log (Callable): Is called with lines about the progress. Defaults to ``print``.

    Returns:
        Exported: The file.

    Raises:
        ConfigError: See :func:`.check_request`; or if the model does not compute what
            is asked for, torch cannot export it, or the file computes something else.
    """
    form = check_request(request)
    if form == HUGGINGFACE:
        raise ValueError('write_folder writes the layout of Hugging Face')
    output = request.output or DEFAULT_OUTPUTS[loaded.task]
    if (loaded.task, output) not in NETWORKS:
        known = [name for task, name in NETWORKS if task == loaded.task]
        raise ConfigError(
            f'--output {output}: a model of {loaded.task} has {" or ".join(known)}'
        )
    size = find_size(loaded, request.size)
    if request.dynamic and not isinstance(loaded.model.backbone, MaskDistillViT):
        log(
            'the backbone is a '
            f'{type(loaded.model.backbone).__name__}, which may need a fixed size'
        )
    normalization = measure_normalization(loaded)
    pictures, origin = find_pictures(loaded, request.images)

    try:
        loaded.model.cpu()
        reference = _reference(loaded, output)
        images = torch.zeros(1, number_of_channels(loaded.model), *size)
        names = _names(reference, output, images, request.out)
        about = describe(
            loaded, request, output, size, normalization, names, checkpoint
        )
        folder = osp.dirname(osp.abspath(request.out))
        write, open_file = FORMATS[form]
        with TemporaryDirectory(dir=folder, prefix='.export-') as draft:
            path = osp.join(draft, osp.basename(request.out))
            log(f'exporting {output} of {loaded.task} to {request.out}')
            network = _network(loaded, request, output, size)
            # torch takes a batch of a single image for a constant.
            images = images.repeat(2, 1, 1, 1)
            write(network, images, _symbols(loaded, request), about, path)
            del network  # Its memory is needed for the check.
            log(f'checking with {origin}')
            run = open_file(path)
            shapes = _shapes(loaded, request, size)
            checks = [
                compare(run, reference, output, batch)
                for batch in batches(pictures, normalization, shapes)
            ]
            summary = judge(checks, request.half)
            del run
            if form == 'onnx' and osp.exists(request.out + ONNX_WEIGHTS):
                os.remove(request.out + ONNX_WEIGHTS)  # of the file that is replaced
            # Weights in a file of their own come first: no file is ever without them.
            for name in sorted(os.listdir(draft), key=len, reverse=True):
                os.replace(osp.join(draft, name), osp.join(folder, name))
    finally:
        loaded.model.to(loaded.device)
    return Exported(request.out, about, checks, summary, origin)


def _network(
    loaded: LoadedModel, request: Request, output: str, size: tuple[int, int]
) -> ExportedNetwork:
    """Build the network that is exported, from a copy of the model."""
    model = copy_for_export(loaded.model, None if request.dynamic else size)
    dtype = torch.float16 if request.half else torch.float32
    return NETWORKS[loaded.task, output](model, dtype).eval()


def _reference(loaded: LoadedModel, output: str) -> ExportedNetwork:
    """Return the network that computes the same, or the logits, in 32 bits."""
    kind = SegmentationLogits if output == 'labels' else NETWORKS[loaded.task, output]
    return kind(loaded.model).eval()


def _names(
    network: ExportedNetwork, output: str, images: torch.Tensor, out: str
) -> list[str]:
    """Name the outputs of a network."""
    if not isinstance(network, BackboneFeatures):
        return [output]
    with exporting(out, None), torch.no_grad():
        outputs = network(images)
    names = ['features' if t.ndim > 2 else 'cls_token' for t in outputs]
    if len(set(names)) == len(names):
        return names
    return [f'{name}_{names[:i].count(name)}' for i, name in enumerate(names)]


def _symbols(loaded: LoadedModel, request: Request) -> dict[int, Any]:
    """Return the symbols of the dimensions of the images that are not fixed."""
    symbols = {0: torch.export.Dim('batch', min=1)}
    if request.dynamic:
        step = multiple_of(loaded)
        low, high = (side // step for side in grid_limits(loaded))
        for dimension, name in ((2, 'height'), (3, 'width')):
            if step == 1:
                symbols[dimension] = torch.export.Dim(name, min=low, max=high)
            else:
                patches = torch.export.Dim(f'{name}_in_patches', min=low, max=high)
                symbols[dimension] = step * patches
    return symbols


def _shapes(
    loaded: LoadedModel, request: Request, size: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """List the numbers and sizes of the images that the file is checked with."""
    if not request.dynamic:
        return [(number, *size) for number in (1, 2, 3)]
    step = multiple_of(loaded)
    low, high = grid_limits(loaded)

    def scaled(side: int, factor: float, odd: int) -> int:
        # A graph may hold only for even numbers of patches, or only for odd ones.
        patches = round(side * factor / step)
        patches += patches % 2 != odd
        return min(max(patches * step, low + odd * step), high - odd * step)

    height, width = size
    return [
        (1, height, width),
        (2, scaled(height, 0.75, 1), scaled(width, 1.25, 0)),
        (3, scaled(height, 0.5, 0), scaled(width, 0.625, 1)),
        (1, scaled(height, 1.25, 1), scaled(width, 1, 1)),
    ]
