"""Refuse stacks that cannot work, and say which command mends them.

``mmcv``, ``mmcv-lite`` and ``onedl-mmcv`` all write the folder ``mmcv/``, the
other OneDL forks write the folders of the packages they forked. pip does not
know that, so it lets one overwrite half of the other: the errors that follow
name neither. mmsegmentation 1.2.2 refuses mmcv from 2.2.0 on with an assertion
that names a version it would refuse as well.
"""

import importlib.util
import warnings
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
    """Versions of the distributions that provide the toolkits, by name."""
    found = {}
    for name in [n for names in OFFICIAL.values() for n in names] + list(
        ONEDL.values()
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def check_mixture(installed: dict[str, str]) -> None:
    """Refuse two distributions that write the same package."""
    for package, fork in ONEDL.items():
        official = [n for n in OFFICIAL[package] if n in installed]
        if fork in installed and official:
            both = ' '.join(official + [fork])
            raise ImportError(
                f'{" and ".join(official)} and {fork} are installed together, '
                f'but both write the package {package!r} and have overwritten '
                f'each other. Keep one family: `pip uninstall -y {both}`, '
                f'then `pip install {official[0]}` or `pip install {fork}`.'
            )
    mmcvs = [n for n in OFFICIAL['mmcv'] if n in installed]
    if len(mmcvs) > 1:
        warnings.warn(
            f'{" and ".join(mmcvs)} are installed together, but all write the '
            "package 'mmcv'. If mmcv misbehaves, `pip uninstall -y "
            f'{" ".join(mmcvs)}` and install one of them again.'
        )


def check_mmcv(installed: dict[str, str], importable: bool) -> None:
    """Refuse a missing mmcv, and one that the official mmseg refuses."""
    if not importable:
        forked = ONEDL['mmengine'] in installed
        command = 'onedl-mmcv' if forked else 'mmcv-lite==2.1.0'
        raise ImportError(
            f'mmcv is not installed. Run `pip install {command}`: it needs no '
            'compiler and is enough for everything here. (We do not install '
            'it by ourselves because it would overwrite a compiled mmcv.)'
        )
    for name in OFFICIAL['mmcv']:
        too_new = name in installed and Version(installed[name]) >= MMCV_LIMIT
        if too_new and 'mmsegmentation' in installed:
            raise ImportError(
                f'{name} {installed[name]} is installed, but mmsegmentation '
                f'{installed["mmsegmentation"]} works with mmcv older than '
                f'{MMCV_LIMIT}. Install a compiled mmcv 2.1.0, or without '
                f'compiled ops: `pip uninstall -y {name}`, then '
                '`pip install mmcv-lite==2.1.0`.'
            )


def apply() -> None:
    installed = installed_distributions()
    check_mixture(installed)
    check_mmcv(installed, importlib.util.find_spec('mmcv') is not None)
