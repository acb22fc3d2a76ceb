"""MMMaskDistill: masked-distillation pre-training and what comes after it.

Importing the package puts other libraries right (:mod:`.compat`), then
registers its modules, so ``custom_imports = dict(imports=['mmmaskdistill'])``
is all that a config of mmpretrain, mmseg or mmdet needs.
"""

from . import compat  # noqa: F401, I001  must come before the toolkits are imported
from . import datasets, engine, models  # noqa: F401
from .version import __version__

__all__ = ['__version__']
