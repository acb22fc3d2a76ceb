"""Detect installed packages that cannot work together, and say how to repair them.

``mmcv``, ``mmcv-lite`` and ``onedl-mmcv`` all install files into the folder ``mmcv/``.
Each of the other OneDL forks installs files into the folder of the package that it was
forked from. pip does not detect this and lets one distribution overwrite a part of
another. The errors that follow mention neither of them.

mmsegmentation 1.2.2 refuses mmcv 2.2.0 and later with an assertion, and the message
recommends a version that it would refuse as well.
"""

import importlib.util
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

OFFICIAL = {
    'mmengine': ('mmengine', 'mmengine-lite'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite'),
    'mmseg': ('mmsegmentation',),
    'mmpretrain': ('mmpretrain',),
}
ONEDL = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmseg': 'onedl-mmsegmentation',
    'mmpretrain': 'onedl-mmpretrain',
}
MMCV_LIMIT = Version('2.2.0')


def installed_distributions() -> dict[str, str]:
    """Find the installed distributions that provide the toolkits.

    Returns:
        dict[str, str]: The version of each installed distribution, by its name.
    """
    official = [name for names in OFFICIAL.values() for name in names]
    found = {}
    for name in [*official, *ONEDL.values()]:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_mixture(installed: dict[str, str]) -> None:
    """Refuse two distributions that install files into the same package.

    Two official distributions of mmcv lead only to a warning.

    Args:
        installed (dict[str, str]): The result of
            :func:`installed_distributions`.

    Raises:
        ImportError: If an official distribution and its OneDL fork are installed
            together.
    """
    for package, fork in ONEDL.items():
        official = [n for n in OFFICIAL[package] if n in installed]
        if fork in installed and official:
            both = ' '.join([*official, fork])
            raise ImportError(
                f'{" and ".join(official)} and {fork} are installed together, '
                f'but both install the package {package!r} and have overwritten '
                f'each other. Keep only one of them: run `pip uninstall -y {both}`, '
                f'then `pip install {official[0]}` or `pip install {fork}`.'
            )
    mmcvs = [n for n in OFFICIAL['mmcv'] if n in installed]
    if len(mmcvs) > 1:
        warnings.warn(
            f'{" and ".join(mmcvs)} are installed together, but all of them '
            "install the package 'mmcv'. If mmcv misbehaves, run `pip uninstall -y "
            f'{" ".join(mmcvs)}` and install one of them again.',
            stacklevel=2,
        )


def check_mmcv(installed: dict[str, str], importable: bool) -> None:
    """Refuse a missing mmcv, and an mmcv that the official mmseg refuses.

    Args:
        installed (dict[str, str]): The result of
            :func:`installed_distributions`.
        importable (bool): Whether the package ``mmcv`` can be imported.

    Raises:
        ImportError: If mmcv is missing, or is too new for mmsegmentation.
    """
    if not importable:
        forked = ONEDL['mmengine'] in installed
        command = 'onedl-mmcv' if forked else 'mmcv-lite==2.1.0'
        raise ImportError(
            f'mmcv is not installed. Run `pip install {command}`: it needs no '
            'compiler and is sufficient for MMMaskDistill. (It is not installed '
            'automatically because it would overwrite a compiled mmcv.)'
        )
    for name in OFFICIAL['mmcv']:
        too_new = name in installed and Version(installed[name]) >= MMCV_LIMIT
        if too_new and 'mmsegmentation' in installed:
            raise ImportError(
                f'{name} {installed[name]} is installed, but mmsegmentation '
                f'{installed["mmsegmentation"]} only works with mmcv older than '
                f'{MMCV_LIMIT}. Install a compiled mmcv 2.1.0. If you need no '
                f'compiled ops, run `pip uninstall -y {name}`, then '
                '`pip install mmcv-lite==2.1.0`.'
            )


def apply() -> None:
    """Check the distributions that are installed."""
    installed = installed_distributions()
    check_mixture(installed)
    check_mmcv(installed, importlib.util.find_spec('mmcv') is not None)
