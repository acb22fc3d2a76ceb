"""Provide ``pkgutil.find_loader``, which Python 3.14 removed.

mmengine 0.10.7 calls it to find out whether mmcv has compiled ops, and so does mmcv
itself (mmcv-lite 2.1.0 and onedl-mmcv 2.3.6). Without it, building a Runner for a
single process, ``revert_sync_batchnorm`` and building an optimizer with a
``paramwise_cfg`` fail with an ``AttributeError``. Python names
``importlib.util.find_spec`` as the replacement, and the function here is built on it.
"""

import importlib.util
import pkgutil
from importlib.abc import Loader


def find_loader(fullname: str) -> Loader | None:
    """Find the loader of a module without importing the module itself.

    Args:
        fullname (str): Absolute name of the module. The packages that contain the
            module are imported.

    Returns:
        Loader | None: The loader, or None if the module does not exist.

    Raises:
        ImportError: If the name is relative, if a package that contains the module
            cannot be imported, or if the module is already imported without a spec.
    """
    if fullname.startswith('.'):
        raise ImportError(f'expected an absolute module name, got {fullname!r}')
    try:
        spec = importlib.util.find_spec(fullname)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ImportError(
            f'cannot find the loader of {fullname!r}: {type(error).__name__}: {error}'
        ) from error
    return None if spec is None else spec.loader


def apply() -> None:
    """Add :func:`find_loader` to ``pkgutil`` unless this Python has the function."""
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = find_loader
