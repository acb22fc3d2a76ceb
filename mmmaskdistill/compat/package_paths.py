"""Configs that inherit from a toolkit, ``_base_ = ['mmseg::_base_/...']``.

mmengine 0.10.7 finds the toolkit's folder through ``pkg_resources``, which
setuptools dropped in version 82. onedl-mmengine 0.10.12 does without, but asks
for the distribution ``mmsegmentation`` where the fork is called
``onedl-mmsegmentation``. The remedy asks Python's import system where the
package is, whatever distribution brought it.
"""

import importlib.util
import os.path as osp
from importlib.metadata import PackageNotFoundError, version

import mmengine.config.config
import mmengine.hub.hub
import mmengine.utils
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import package_utils

PACKAGE2MODULE = {package: module for module, package in MODULE2PACKAGE.items()}
PACKAGE2MODULE.update({'mmcv-lite': 'mmcv', 'mmcv-full': 'mmcv'})


def _find_spec(package: str):
    module = PACKAGE2MODULE.get(package, package).replace('-', '_')
    return importlib.util.find_spec(module)


def is_installed(package: str) -> bool:
    """Whether a distribution or a package of that name is installed."""
    try:
        version(package)
        return True
    except PackageNotFoundError:
        spec = _find_spec(package)
        return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """Folder of an installed package, given its or its distribution's name.

    Raises:
        ImportError: If it is not installed.
    """
    spec = _find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f'{package} is not installed')
    return osp.dirname(spec.origin)


def apply() -> None:
    for module in (
        package_utils,
        mmengine.utils,
        mmengine.config.config,
        mmengine.hub.hub,
    ):
        for function in (is_installed, get_installed_path):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)
