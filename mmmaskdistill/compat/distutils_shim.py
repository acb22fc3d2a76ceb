"""Provide ``distutils``, which Python 3.12 removed, where setuptools has it.

mmengine 0.10.7 and onedl-mmengine 0.10.12 import ``distutils`` when they log the
environment, that is whenever a Runner is built. Since Python 3.12 only setuptools has
``distutils``, and Python finds it there because of a ``.pth`` file of setuptools.
Python reads such files in the site-packages of its environment but not in other
folders, for example those of ``PYTHONPATH``. If setuptools is in such a folder, or if
the variable ``SETUPTOOLS_USE_DISTUTILS`` is set to ``stdlib``, building a Runner fails.

The remedy calls the function that the ``.pth`` file calls. setuptools is installed
wherever pip has installed torch for Python 3.12 or newer, because torch requires it.
"""

import sys


def apply() -> None:
    """Let setuptools offer ``distutils`` unless the standard library has it."""
    if 'distutils' in sys.stdlib_module_names:
        return
    try:
        import _distutils_hack
    except ImportError:  # There is no setuptools.
        return
    _distutils_hack.add_shim()
