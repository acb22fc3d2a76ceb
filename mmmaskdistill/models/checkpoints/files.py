"""Read checkpoint files without running code from them, and write files atomically."""

import argparse
import json
import logging
import os.path as osp
import re
from contextlib import suppress
from glob import escape, glob
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_local_path
from mmengine.fileio.backends import prefix_to_backends
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mmmaskdistill.compat.atomic_files import open_atomically
from mmmaskdistill.errors import CheckpointError, first_few, first_line

from .foreign import foreign_kind
from .formats import StateDict, plain_name
from .torchscript import is_torchscript, read_torchscript

# mmengine keeps the path of a run's latest checkpoint in a text file of this name.
POINTER = 'last_checkpoint'
# The weights of a folder in the layout of Hugging Face.
FOLDER_WEIGHTS = 'model.safetensors'
# Parts of mmengine's ``meta`` that say how weights are used: the config, and the names
# and colors of the classes.
META = ('cfg', 'dataset_meta')


class Weights(NamedTuple):
    """What a checkpoint file says about a model.

    Attributes:
        tensors (dict[str, Tensor]): The tensors under their full names.
        meta (dict): mmengine's ``meta``, such as the names of the classes; empty if
            the file has none.
    """

    tensors: StateDict
    meta: dict


def latest_checkpoint(work_dir: str) -> str | None:
    """Find the checkpoint that a run resumes from.

    The file ``last_checkpoint`` in the work dir contains its path. A checkpoint of
    this name in the work dir itself comes first, since the work dir may have been moved
    or copied.
    If ``last_checkpoint`` is missing or its checkpoint does not exist, for
    example because the run was killed before it wrote that file, the newest
    ``iter_*.pth`` or ``epoch_*.pth`` is taken.

    Args:
        work_dir (str): Folder of the run.

    Returns:
        str | None: Path of the checkpoint, or None if there is none.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if osp.isfile(pointer):
        with open(pointer) as file:
            named = file.read().strip()
        for path in (osp.join(work_dir, osp.basename(named)), named):
            if osp.isfile(path):
                return path
    written = [
        path
        for pattern in ('iter_*.pth', 'epoch_*.pth')
        for path in glob(osp.join(escape(work_dir), pattern))
    ]
    return max(written, key=osp.getmtime, default=None)


def find_problem(checkpoint: str) -> str | None:
    """Say why there is no checkpoint at a path.

    Args:
        checkpoint (str): See :func:`find_file`.

    Returns:
        str | None: The reason and what to do about it; None if there is a file, or if
        it is an address.
    """
    if is_address(checkpoint):
        return None
    path = Path(checkpoint)
    if path.is_dir():
        if _checkpoint_in(path):
            return None
        return (
            f'the folder {checkpoint!r} has no checkpoint: expected {FOLDER_WEIGHTS}, '
            'or the work dir of a run, with files such as iter_8000.pth. Give the path '
            'of a file'
        )
    if path.name != POINTER:
        if path.is_file():
            return None
        return f'checkpoint {checkpoint!r} does not exist'
    if latest_checkpoint(str(path.parent)):
        return None
    config = path.parent.with_suffix('.py')
    command = f'python tools/train.py {config}' if config.is_file() else 'that training'
    return (
        f"there is no checkpoint in '{path.parent}' yet: run {command} first, or start "
        'from random weights with --cfg-options model.backbone.init_cfg=None'
    )


def find_file(checkpoint: str) -> str:
    """Return the checkpoint that a path stands for.

    Args:
        checkpoint (str): Path or address of a checkpoint; or the work dir of a run, or
            the file ``last_checkpoint`` in it, which stand for the run's latest
            checkpoint; or a folder in the layout of Hugging Face, which has a
            ``model.safetensors``.

    Returns:
        str: Its path or address.

    Raises:
        CheckpointError: If there is none.
    """
    problem = find_problem(checkpoint)
    if problem:
        raise CheckpointError(problem)
    if is_address(checkpoint):
        return checkpoint
    path = Path(checkpoint)
    if path.is_dir():
        return _checkpoint_in(path)
    return latest_checkpoint(str(path.parent)) if path.name == POINTER else checkpoint


def _checkpoint_in(folder: Path) -> str | None:
    """Return the checkpoint that a folder stands for."""
    weights = folder / FOLDER_WEIGHTS
    if weights.is_file():
        return str(weights)
    # A run keeps its best checkpoint next to the latest one, or only the best one.
    best = map(str, folder.glob('best_*.pth'))
    return latest_checkpoint(str(folder)) or max(best, key=osp.getmtime, default=None)


def is_address(path: str) -> bool:
    """Tell whether a path is an address such as ``https://...`` or ``s3://...``."""
    return '://' in path


def read_weights(
    checkpoint: str, map_location: Any = 'cpu', trust_checkpoint: bool = False
) -> Weights:
    """Read the weights of a checkpoint file.

    Unless it is trusted, a file cannot run code: pickles are read with
    ``weights_only=True`` and an allow-list, and from TorchScript archives only the
    tensors are read.

    Args:
        checkpoint (str): Path of the file, or an address that mmengine can read, or a
            folder that stands for a checkpoint, see :func:`find_file`. The file is a
            ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors`` file or a TorchScript
            archive, the format in which OpenAI publishes CLIP.
        map_location (str | torch.device): Device of the tensors. Defaults to ``'cpu'``.
        trust_checkpoint (bool): Whether to read a pickle that holds more than tensors
            and the containers known to be harmless. Such a file can run any code that
            its author put into it. Defaults to False.

    Returns:
        Weights: The tensors and the meta information, see :func:`unwrap`.

    Raises:
        CheckpointError: If the file does not exist, cannot be read, holds no weights,
            or holds more than tensors and is not trusted.
    """
    checkpoint = find_file(checkpoint)
    if trust_checkpoint:
        print_log(
            f'trust_checkpoint=True: {checkpoint} may run any code',
            logger='current',
            level=logging.WARNING,
        )
    try:
        content = _read(checkpoint, trust_checkpoint)
    except CheckpointError:
        raise
    except Exception as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if refused:
            raise CheckpointError(
                f'checkpoint {checkpoint!r} is refused: it holds '
                f'{refused[1]}, and reading anything but tensors could run code. Ask '
                'its author for a .safetensors file. If you trust the author, set '
                "trust_checkpoint=True in the backbone's init_cfg, or pass "
                '--trust-checkpoint to a converter'
            ) from error
        kind = None if is_address(checkpoint) else foreign_kind(checkpoint)
        if kind:
            raise CheckpointError(
                f'checkpoint {checkpoint!r} is no checkpoint but {kind}'
            ) from error
        raise CheckpointError(
            f'checkpoint {checkpoint!r} cannot be read '
            f'({first_line(error)}): it is damaged, is not a checkpoint, or cannot be '
            'reached. Download or copy it again'
        ) from error
    weights = unwrap(content, checkpoint)
    if not weights.tensors:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} holds no weights, only a '
            f'{type(content).__name__}{_first_keys(content)}: expected a dict of named '
            "tensors, or one under a key such as 'state_dict' or 'model'"
        )
    return weights._replace(
        tensors={
            key: tensor.to(map_location) for key, tensor in weights.tensors.items()
        }
    )


def unwrap(content: Any, checkpoint: str) -> Weights:
    """Find the named tensors in the content of a checkpoint.

    Args:
        content (Any): Content of the checkpoint. The tensors may be in a dict under the
            key ``state_dict``, ``model`` or ``module``, and in nested ones. Those of a
            student and a teacher, which DINO and iBOT write next to each other, get
            names that begin with ``student.`` and ``teacher.``. A dict under another
            key, such as ``model_ema``, is read if nothing else holds tensors. If there
            are several, their names begin with their keys.
        checkpoint (str): The checkpoint's name, for messages.

    Returns:
        Weights: The tensors, none if there are none. The prefix ``module.``, if all
        names have it, and the marks of ``torch.compile`` are removed from the names.

    Raises:
        CheckpointError: If a tensor has something else than text as its name.
    """
    meta = content.get('meta') if isinstance(content, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    for wrapper in ('state_dict', 'model', 'module'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = _tensors_of(content, checkpoint)
    if not tensors and isinstance(content, dict):
        for part in ('student', 'teacher'):
            nested = _tensors_of(content.get(part), checkpoint)
            tensors.update({f'{part}.{key}': value for key, value in nested.items()})
    if not tensors and isinstance(content, dict):
        parts = {
            key: _tensors_of(value, checkpoint)
            for key, value in content.items()
            if isinstance(value, dict) and all(isinstance(k, str) for k in value)
        }
        parts = {key: nested for key, nested in parts.items() if nested}
        for part, nested in parts.items():
            start = f'{part}.' if len(parts) > 1 else ''
            tensors.update({start + key: value for key, value in nested.items()})
    if all(key.startswith('module.') for key in tensors):
        tensors = {key.removeprefix('module.'): v for key, v in tensors.items()}
    return Weights({plain_name(key): v for key, v in tensors.items()}, meta)


def _first_keys(content: Any) -> str:
    if not isinstance(content, dict) or not content:
        return ''
    return f' with {first_few([repr(key) for key in content])}'


def _tensors_of(content: Any, checkpoint: str) -> StateDict:
    """Return the tensors of a dict; an empty one for anything else."""
    if not isinstance(content, dict):
        return {}
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    for key in tensors:
        if not isinstance(key, str):
            raise CheckpointError(
                f'checkpoint {checkpoint!r} has a tensor under the key {key!r}, '
                f'expected the name of a parameter and not a {type(key).__name__}: '
                'save the state_dict() of a model'
            )
    return tensors


def _read(checkpoint: str, trust: bool) -> Any:
    """Read the content of a file or an address in the way that its format needs."""
    suffix = Path(urlparse(checkpoint).path).suffix
    if not is_address(checkpoint):
        return _read_file(Path(checkpoint), Path(checkpoint).suffix, trust)
    if checkpoint.startswith(('http://', 'https://')):
        return _read_file(_download(checkpoint), suffix, trust)
    # mmengine allows the name of a cluster before the scheme, as in ceph:s3://.
    scheme = checkpoint.split('://')[0].split(':')[-1]
    if scheme in prefix_to_backends:
        with get_local_path(checkpoint) as path:
            return _read_file(Path(path), suffix, trust)
    if trust:
        raise CheckpointError(
            f'checkpoint {checkpoint!r}: trust_checkpoint=True has no effect on '
            f'addresses that begin with {scheme}://. Download the file and give its '
            'path'
        )
    return CheckpointLoader.load_checkpoint(checkpoint, 'cpu')


def _read_file(path: Path, suffix: str, trust: bool) -> Any:
    """Read the content of a local file, whose format its suffix tells."""
    if suffix == '.safetensors' or _is_safetensors(path):
        return read_safetensors(str(path))
    if is_torchscript(path):
        return read_torchscript(path)
    # Training scripts save their arguments, a Namespace, next to the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location='cpu', weights_only=not trust)


def _is_safetensors(path: Path) -> bool:
    """Tell whether a file has the header of a safetensors file."""
    with path.open('rb') as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], 'little')
    return start[8:] == b'{' and 8 + length <= path.stat().st_size


def _download(address: str) -> Path:
    """Download a file into torch's cache, completely or not at all.

    Only rank 0 downloads, unless other ranks do not see its cache.
    """
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(address).path).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if get_rank() == 0 and not path.exists():
            torch.hub.download_url_to_file(address, str(path), progress=False)
    finally:
        barrier()
    if not path.exists():  # This rank is on another machine than rank 0.
        torch.hub.download_url_to_file(address, str(path), progress=False)
    return path


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def _load_safetensors(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a safetensors file for ``load_from`` and mmengine's other loaders."""
    content = read_safetensors(filename)
    # torch.load also takes None, functions and dicts, which name storages of pickles.
    if isinstance(map_location, (str, torch.device)):
        tensors = content['state_dict']
        content['state_dict'] = {k: v.to(map_location) for k, v in tensors.items()}
    return content if content['meta'] else content['state_dict']


def read_safetensors(path: str) -> dict[str, Any]:
    """Read a safetensors file.

    Args:
        path (str): The file.

    Returns:
        dict: ``state_dict``, and ``meta`` with what :func:`write_weights` puts into the
        metadata of such a file, if it is there.
    """
    with safe_open(path, framework='pt') as file:
        texts = file.metadata() or {}
    meta = {}
    for key in META:
        # Files of others may have text of their own under the same key.
        with suppress(ValueError):
            meta.update({key: json.loads(texts[key])} if key in texts else {})
    return dict(state_dict=load_file(path), meta=meta)


def write_weights(state: StateDict, path: str, meta: dict | None = None) -> None:
    """Write weights to a file, completely or not at all.

    Args:
        state (dict[str, Tensor]): The weights.
        path (str): File to write; its folder is created. A file that ends with
            ``.safetensors`` gets that format, any other one becomes a checkpoint with a
            ``state_dict``.
        meta (dict, optional): The ``meta`` of a checkpoint with a ``state_dict``. Into
            the metadata of a ``.safetensors`` file, which holds only text, its parts
            :data:`META` are written as JSON. Defaults to None, an empty dict.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every tensor is copied, because safetensors refuses tensors that share memory.
    state = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }
    with open_atomically(path, 'wb') as file:
        if path.suffix == '.safetensors':
            texts = {
                key: json.dumps(meta[key], default=np.ndarray.tolist)
                for key in META
                if key in (meta or {})
            }
            file.write(save(state, metadata=dict(format='pt', **texts)))
        else:
            try:
                torch.save(dict(state_dict=state, meta=meta or {}), file)
            except RuntimeError as error:
                # What torch says when a disk is full hides the error of the disk.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
