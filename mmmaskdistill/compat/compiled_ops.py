"""Let ``import mmcv.ops`` work without compiled ops.

mmcv-lite (2.1.0) and onedl-mmcv (2.3.6) contain the Python part of ``mmcv.ops`` but
not the compiled part, ``mmcv._ext``, which the file of every op loads on import.
mmseg 1.2.2 imports four ops unconditionally, among them ``point_sample``, which needs
only torch. Without compiled ops, ``import mmseg.models`` therefore fails.

While ``mmcv.ops`` is imported, a placeholder takes the place of ``mmcv._ext``. An op
from the placeholder raises an error when it is called. Afterwards the placeholder is
removed from ``sys.modules``, because mmengine checks there whether the ops are
compiled. A compiled mmcv is left untouched.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

NAME = 'mmcv._ext'


class PlaceholderOps(ModuleType):
    """A module that has every op. Each op raises an error when it is called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_op(*args, **kwargs):
            raise NotImplementedError(
                f"the op '{name}' is part of compiled mmcv, but the installed "
                'mmcv has no compiled ops. Replace mmcv-lite by '
                'mmcv==2.1.0 built for your version of torch (see '
                'https://mmcv.readthedocs.io/en/latest/get_started/build.html), '
                'or replace onedl-mmcv by a build of onedl-mmcv with ops.'
            )

        missing_op.__name__ = name
        return missing_op


def apply() -> None:
    """Import ``mmcv.ops`` with the placeholder unless mmcv has compiled ops."""
    if 'mmcv.ops' in sys.modules or importlib.util.find_spec(NAME) is not None:
        return
    sys.modules[NAME] = PlaceholderOps(NAME)
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules[NAME]
