"""MMMaskDistill: masked-distillation pre-training, fine-tuning and segmentation.

Importing the package first works around incompatibilities of other libraries
(:mod:`.compat`) and then registers the package's classes. To use them, a config of
mmpretrain, mmseg or mmdet therefore needs only the line
``custom_imports = dict(imports=['mmmaskdistill'])``.
"""

from . import compat  # noqa: F401, I001  must come before the toolkits are imported
from . import datasets, engine, models  # noqa: F401
from .version import __version__

__all__ = ['__version__']
