"""The tensors of a TorchScript archive, without its code.

``torch.jit.load`` compiles an archive's code and runs what its modules do when
they are unpickled. Weights need neither: the archive is a zip file whose
``data.pkl`` is a tree of modules and whose ``data/`` holds their tensors.
"""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

STORAGES = dict(
    FloatStorage=torch.float32,
    HalfStorage=torch.float16,
    BFloat16Storage=torch.bfloat16,
    DoubleStorage=torch.float64,
    LongStorage=torch.int64,
    IntStorage=torch.int32,
    ShortStorage=torch.int16,
    CharStorage=torch.int8,
    ByteStorage=torch.uint8,
    BoolStorage=torch.bool,
)
# Functions that say of a list or a dict what its types are.
TYPED = (
    'build_intlist',
    'build_doublelist',
    'build_boollist',
    'build_tensorlist',
    'restore_type_tag',
)


class _Module:
    """Stands for any module of the archive: its attributes and no code."""


def _tensor(values: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    return values.as_strided(size, stride, offset)


def _untyped(value, *_):
    return value


class _Unpickler(pickle.Unpickler):
    """Makes modules' trees and tensors, and refuses everything else."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f'{root}/data.pkl'))
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str):
        if module.split('.')[0] == '__torch__':
            return _Module
        if module == 'torch' and name in STORAGES:
            return STORAGES[name]
        if module == 'torch.jit._pickle' and name in TYPED:
            return _untyped
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return _tensor
        if (module, name) == ('collections', 'OrderedDict'):
            return dict
        raise pickle.UnpicklingError(f'the archive holds a {module}.{name}')

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, _, _ = pid
        content = bytearray(self.archive.read(f'{self.root}/data/{key}'))
        if not content:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            name.split('/')[1:] == ['constants.pkl'] for name in archive.namelist()
        )


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive, named as in its modules.

    Args:
        path (Path): The archive.

    Returns:
        dict[str, Tensor]: Parameters, buffers and other tensors, on the CPU.

    Raises:
        pickle.UnpicklingError: If it holds more than modules, numbers, text
            and tensors.
    """
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split('/')[0]
        return dict(_tensors(_Unpickler(archive, root).load()))


def _tensors(module: _Module, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f'{prefix}{name}.')
