"""Read the tensors of a TorchScript archive without running its code.

``torch.jit.load`` compiles the code of an archive and runs what its modules do when
they are unpickled. Reading weights needs neither. The archive is a zip file: its
``data.pkl`` is a tree of modules, and its folder ``data/`` holds their tensors.
"""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
# Functions that wrap a list or a dict to declare the types of its elements.
TYPED = (
    'build_intlist',
    'build_doublelist',
    'build_boollist',
    'build_tensorlist',
    'restore_type_tag',
)


class _Module:
    """Replaces every module of the archive; it has the attributes but no code."""


def _tensor(values: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    return values.as_strided(size, stride, offset)


def _untyped(value: Any, *_) -> Any:
    return value


class _Unpickler(pickle.Unpickler):
    """Builds the tree of modules and their tensors, and refuses everything else."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f'{root}/data.pkl'))
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        """Return the harmless substitute for a class or function that pickle names.

        Args:
            module (str): Python module of the class or function.
            name (str): Its name.

        Returns:
            Any: A class, a function or, for the type of a storage, a ``torch.dtype``.

        Raises:
            pickle.UnpicklingError: If weights do not need such a class or function.
        """
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
        raise pickle.UnpicklingError(
            f'the archive holds a {module}.{name}, expected only modules and tensors'
        )

    def persistent_load(self, pid: tuple) -> Tensor:
        """Read the values of one storage, a flat tensor.

        Args:
            pid (tuple): Pickle's reference to the storage: a tag, the dtype, the name
                of the file in ``data/``, the device and the number of values.

        Returns:
            Tensor: The values, on the CPU.
        """
        _, dtype, key, _, _ = pid
        content = bytearray(self.archive.read(f'{self.root}/data/{key}'))
        if not content:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype)


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            name.split('/')[1:] == ['constants.pkl'] for name in archive.namelist()
        )


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive, under their names in its modules.

    Args:
        path (Path): The archive.

    Returns:
        dict[str, Tensor]: Parameters, buffers and other tensors, on the CPU.

    Raises:
        pickle.UnpicklingError: If the archive holds more than modules, tensors,
            numbers, text, lists and dicts.
    """
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split('/')[0]
        return dict(_tensors(_Unpickler(archive, root).load()))


def _tensors(module: _Module, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module and of its submodules with their full names."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f'{prefix}{name}.')
