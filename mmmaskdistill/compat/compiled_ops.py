"""``import mmcv.ops`` without compiled ops.

mmcv-lite (2.1.0) and onedl-mmcv (2.3.6) ship the Python half of ``mmcv.ops``
but not ``mmcv._ext``, the compiled half, which every op's file asks for when it
is imported. mmseg 1.2.2 imports four ops unguarded, among them ``point_sample``
which is plain torch, so ``import mmseg.models`` fails.

While ``mmcv.ops`` is imported, a placeholder stands in ``mmcv._ext``'s place.
What it hands out raises when it is called. It is gone from ``sys.modules``
afterwards, because mmengine asks there whether the ops are compiled. A compiled
mmcv is left untouched.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

NAME = 'mmcv._ext'


class PlaceholderOps(ModuleType):
    """A module that has every op, each of which raises when called."""

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_op(*args, **kwargs):
            raise NotImplementedError(
                f"the op '{name}' is part of compiled mmcv, but the mmcv that "
                'is installed has no compiled ops. Replace mmcv-lite by '
                'mmcv==2.1.0, built for your torch (see '
                'https://mmcv.readthedocs.io/en/latest/get_started/build.html)'
                ', or onedl-mmcv by a build of it with ops.'
            )

        missing_op.__name__ = name
        return missing_op


def apply() -> None:
    if 'mmcv.ops' in sys.modules or importlib.util.find_spec(NAME) is not None:
        return
    sys.modules[NAME] = PlaceholderOps(NAME)
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules[NAME]
