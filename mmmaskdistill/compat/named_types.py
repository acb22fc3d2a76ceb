"""Keep mmengine from building whatever a config names.

A config is trusted by mmengine (0.8 to 0.10, and onedl-mmengine 0.10): if no registry
knows a ``type``, it is taken for the path of any Python object, which is imported and
called, and ``type='a.B'``, ``_scope_='a'`` and ``default_scope='a'`` import
``a.registry`` first. mmpretrain also registers
functions that evaluate their arguments (torchvision's transforms) or download models
with code of their own (transformers' models), and mmseg and mmpretrain read some
settings from files that may be pickles. A config from a checkpoint that holds nothing
but text could run code in these ways: ``dict(type='os.system', command='...')``.

Configs of one's own need some of this, so it is restricted only where a config is not
trusted, and this module applies nothing when it is imported.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.registry import Registry, registry
from torch import nn

from mmmaskdistill.errors import CheckpointError

# Packages whose classes a config may name by their full path, as mmengine writes
# them in the configs of Python's syntax (lazy_import).
PACKAGES = (
    'mmmaskdistill',
    'mmseg',
    'mmpretrain',
    'mmcv',
    'mmengine',
    'mmdet',
    'torch',
)
PARTS = (nn.Module, BaseTransform)
# Classes that call any function of another library, or download models.
TOO_POWERFUL = ('Albu', 'Albumentations', 'HuggingFaceClassifier')
# What mmengine's ``load`` opens; its pickles and YAML files can run code.
LOADED = ('.json', '.pickle', '.pkl', '.yaml', '.yml')
ADVICE = (
    'Give the config as well (load_model(CONFIG, CHECKPOINT), --config CONFIG), or set '
    'trust_checkpoint=True (--trust-checkpoint) if you trust its author'
)


@contextmanager
def only_parts(source: str) -> Iterator[None]:
    """Let mmengine build registered classes, modules and transforms, and nothing else.

    Args:
        source (str): What contains the config, for the message.

    Yields:
        None: The restriction applies inside the ``with`` statement.

    Raises:
        CheckpointError: If the config names anything else.
    """
    find, get = registry.get_object_from_string, Registry.get
    asked = []

    def find_part(name: str) -> type | None:
        package, dot, _ = name.partition('.')
        found = find(name) if dot and package in PACKAGES else None
        home = getattr(found, '__module__', '').partition('.')[0]
        is_part = isinstance(found, type) and issubclass(found, PARTS)
        return found if is_part and home in PACKAGES else None

    def get_part(self: Registry, key: str) -> type:
        # A registry asks its parents and children with this method, too.
        if asked:
            return get(self, key)
        package, dot, _ = str(key).partition('.')
        if dot and not _is_imported(package):
            raise _Refused(key)
        asked.append(key)
        try:
            found = get(self, key)
        finally:
            asked.pop()
        if not isinstance(found, type) or found.__name__ in TOO_POWERFUL:
            raise _Refused(key)
        return found

    registry.get_object_from_string, Registry.get = find_part, get_part
    try:
        yield
    except Exception as error:
        refused = _refused(error)
        if refused is None:
            raise
        raise CheckpointError(
            f'the config in {source} has type={refused.name!r}, which is no class that '
            'an imported library has registered, or one that can do more than compute. '
            f'If it is a class of your own, import it first. {ADVICE}'
        ) from error
    finally:
        registry.get_object_from_string, Registry.get = find, get


def _is_imported(package: str) -> bool:
    """Tell whether mmengine may import a package, because that changes nothing."""
    return package in PACKAGES or package in sys.modules


def check_scope(scope: str | None, source: str) -> None:
    """Refuse a scope that mmengine would import a package for.

    Args:
        scope (str | None): A config's ``default_scope`` or ``_scope_``.
        source (str): What contains the config, for the message.

    Raises:
        CheckpointError: If the package is neither imported nor one of OpenMMLab's.
    """
    if scope is not None and not (isinstance(scope, str) and _is_imported(scope)):
        raise CheckpointError(
            f'the config in {source} has the scope {scope!r}, and mmengine would '
            f'import a package of this name. If you know it, import it first. {ADVICE}'
        )


def refuse_files(node: Any, source: str) -> None:
    """Refuse settings for which mmengine, mmseg or mmpretrain would read a file.

    Args:
        node (Any): A part of a config.
        source (str): What contains the config, for the message.

    Raises:
        CheckpointError: If a text in it is an address or the name of such a file, or
            a ``_scope_`` is a package that is not imported.
    """
    if isinstance(node, dict):
        check_scope(node.get('_scope_'), source)
        node = node.values()
    elif isinstance(node, str):
        if '://' in node or node.lower().endswith(LOADED):
            raise CheckpointError(
                f'the config in {source} names the file {node[:80]!r} in its model or '
                f'its pipeline, and opening it could run code. {ADVICE}'
            )
        return
    elif not isinstance(node, (list, tuple)):
        return
    for part in node:
        refuse_files(part, source)


class _Refused(Exception):
    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


def _refused(error: BaseException | None) -> _Refused | None:
    """Find the refusal among the errors that led to an error."""
    while error is not None and not isinstance(error, _Refused):
        error = error.__cause__ or error.__context__
    return error
