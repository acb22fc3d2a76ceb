"""Configs that inherit from a package, such as ``_base_ = ['mmseg::_base_/...']``.

mmengine 0.10.7 finds the folder of the package through ``pkg_resources``, which
setuptools removed in version 82. onedl-mmengine 0.10.12 does not need it, but asks
for the distribution ``mmsegmentation``, whereas the fork of it is called
``onedl-mmsegmentation``. The remedy asks Python's import system where the package is,
whichever distribution it came from.

mmengine also has a fixed table of the packages that a config may inherit from
(``mmdet``, ``mmseg`` ...). This package is added to it, so that
``_base_ = 'mmmaskdistill::pretrain/...'`` and ``mmengine.hub.get_config`` work.
Everything that a config inherits from a package is looked up in that package's
registries only. The configs of this package use modules of mmpretrain and mmseg, so
what is inherited from them is looked up in the config's ``default_scope`` instead, as
if the file had been given by its path.
"""

import importlib.util
import os.path as osp
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version

import mmengine.config.config
import mmengine.hub.hub
import mmengine.utils
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import package_utils

from .wrapping import wrap

PACKAGE = 'mmmaskdistill'
PACKAGE2MODULE = {package: module for module, package in MODULE2PACKAGE.items()}
PACKAGE2MODULE.update({'mmcv-lite': 'mmcv', 'mmcv-full': 'mmcv'})


def _find_spec(package: str) -> ModuleSpec | None:
    module = PACKAGE2MODULE.get(package, package).replace('-', '_')
    return importlib.util.find_spec(module)


def is_installed(package: str) -> bool:
    """Tell whether a distribution or a package of that name is installed."""
    try:
        version(package)
        return True
    except PackageNotFoundError:
        spec = _find_spec(package)
        return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """Find the folder of an installed package.

    Args:
        package (str): Name of the package or of its distribution, for example
            ``mmseg`` or ``mmsegmentation``.

    Raises:
        ImportError: If it is not installed.
    """
    spec = _find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f'{package} is not installed')
    return osp.dirname(spec.origin)


def apply() -> None:
    """Replace mmengine's two functions wherever it has imported them."""
    MODULE2PACKAGE[PACKAGE] = PACKAGE
    for module in (
        package_utils,
        mmengine.utils,
        mmengine.config.config,
        mmengine.hub.hub,
    ):
        for function in (is_installed, get_installed_path):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)

    @wrap(Config, '_get_cfg_path')
    def without_scope(get_path: Callable, *args, **kwargs) -> tuple[str, str | None]:
        path, scope = get_path(*args, **kwargs)
        return path, None if scope == PACKAGE else scope
