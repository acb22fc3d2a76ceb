"""Write a network in each format, and run what was written."""

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError, first_line

from .description import KEY

# protobuf, which ONNX files are made of, cannot hold more bytes in one file.
LARGEST_FILE = 1.9e9
# Computes the outputs of a batch [B, C, H, W] float32.
Runner = Callable[[np.ndarray], list[np.ndarray]]


def write_onnx(
    network: nn.Module,
    images: Tensor,
    shapes: dict[int, Any] | None,
    about: dict,
    path: str,
) -> None:
    """Write an ONNX file with torch's exporter.

    Weights of more than 1.9 GB go to a file of their own next to it, whose name ends
    with ``.data``.

    Args:
        network (nn.Module): The network.
        images (Tensor): Images that the network can take, [B, C, H, W].
        shapes (dict[int, Any]): The symbol of each dimension of the images that is not
            fixed, see ``torch.export``.
        about (dict): The description of the file.
        path (str): The file.

    Raises:
        ConfigError: If torch cannot export the network.
    """
    with exporting(path, shapes):
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            input_names=['images'],
            output_names=about['outputs'],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    program.model.metadata_props[KEY] = json.dumps(about)
    weights = sum(t.nbytes for t in network.state_dict().values())
    program.save(path, external_data=weights > LARGEST_FILE)


def open_onnx(path: str) -> Runner:
    """Open an ONNX file with onnxruntime on the CPU.

    Args:
        path (str): The file.

    Returns:
        Runner: Computes the outputs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Errors are raised, too.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    return lambda images: session.run(None, dict(images=images))


def write_torchscript(
    network: nn.Module,
    images: Tensor,
    shapes: dict[int, Any] | None,
    about: dict,
    path: str,
) -> None:
    """Trace a network and write it as TorchScript.

    The batch may have any size. See :func:`write_onnx` for the arguments and errors.
    """
    with exporting(path, shapes), torch.no_grad():
        traced = torch.jit.trace(network, images, check_trace=False)
        content = io.BytesIO()
        torch.jit.save(traced, content, _extra_files={f'{KEY}.json': json.dumps(about)})
    # Where a disk is full, torch's own writer ends the process.
    Path(path).write_bytes(content.getbuffer())


def open_torchscript(path: str) -> Runner:
    """Open a TorchScript file; see :func:`open_onnx`."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return _runner(torch.jit.load(path))


def write_pt2(
    network: nn.Module,
    images: Tensor,
    shapes: dict[int, Any] | None,
    about: dict,
    path: str,
) -> None:
    """Write a network with ``torch.export``.

    See :func:`write_onnx` for the arguments and errors.
    """
    with exporting(path, shapes), torch.no_grad():
        program = torch.export.export(
            network, (images,), dynamic_shapes=(shapes,), strict=False
        )
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={f'{KEY}.json': json.dumps(about)})
    Path(path).write_bytes(content.getbuffer())


def open_pt2(path: str) -> Runner:
    """Open a file of ``torch.export``; see :func:`open_onnx`."""
    return _runner(torch.export.load(path).module())


def _runner(network: nn.Module) -> Runner:
    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = network(torch.from_numpy(images))
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        return [output.numpy() for output in outputs]

    return run


FORMATS = dict(
    onnx=(write_onnx, open_onnx),
    torchscript=(write_torchscript, open_torchscript),
    pt2=(write_pt2, open_pt2),
)


@contextmanager
def exporting(path: str, shapes: Sequence | dict | None) -> Iterator[None]:
    """Silence warnings that an exporter means for itself, and shorten its errors.

    Args:
        path (str): The file, for messages.
        shapes (dict[int, Any]): See :func:`write_onnx`.

    Raises:
        ConfigError: If there is an error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        advice = 'a model of other layers, or another --format'
        if shapes and len(shapes) > 1:
            advice = '--size H W, which needs no symbols for the sides of images'
        raise ConfigError(
            f'torch {torch.__version__} cannot export the model to '
            f'{os.path.basename(path)!r} ({type(cause).__name__}: '
            f'{first_line(cause)}): try {advice}'
        ) from error
