"""Let ``import mmpretrain.models`` work with a newer ``transformers``.

mmpretrain 1.2.0 and onedl-mmpretrain 1.3.6 import their multimodal models if both
``transformers`` and ``pycocotools`` are installed, as is common where mmdet is used.
transformers 5 moved functions that these models import. With transformers 5, importing
``mmpretrain.models`` therefore fails.

The remedy makes mmpretrain believe that ``pycocotools`` is missing if ``transformers``
lacks one of these functions. mmpretrain then replaces its multimodal models by
placeholders, which raise an error when they are built.
"""

import functools
import importlib.metadata
import importlib.util
import sys
from contextlib import AbstractContextManager
from types import ModuleType
from unittest.mock import patch

import importlib_metadata

# What mmpretrain's multimodal models import from transformers.modeling_utils.
IMPORTED = (
    'GenerationConfig',
    'GenerationMixin',
    'PreTrainedModel',
    'apply_chunking_to_forward',
    'find_pruneable_heads_and_indices',
    'prune_linear_layer',
)


def _breaks_mmpretrain() -> bool:
    for package in ('pycocotools', 'transformers'):
        if importlib.util.find_spec(package) is None:
            return False
    modeling_utils = importlib.import_module('transformers.modeling_utils')
    return not all(hasattr(modeling_utils, name) for name in IMPORTED)


def _without_pycocotools(metadata: ModuleType) -> AbstractContextManager:
    """Make a metadata module report pycocotools as missing.

    The only purpose for which mmpretrain looks for pycocotools is to decide whether to
    import its multimodal models.

    Args:
        metadata (ModuleType): ``importlib.metadata`` or ``importlib_metadata``.

    Returns:
        AbstractContextManager: The module is changed while the context is open.
    """
    distribution = metadata.distribution

    @functools.wraps(distribution)
    def distribution_except_pycocotools(name: str):
        if name == 'pycocotools':
            raise metadata.PackageNotFoundError(name)
        return distribution(name)

    return patch.object(metadata, 'distribution', distribution_except_pycocotools)


def apply() -> None:
    """Make mmpretrain leave out its multimodal models if it cannot import them."""
    if 'mmpretrain' in sys.modules or not _breaks_mmpretrain():
        return
    # mmpretrain uses importlib_metadata, onedl-mmpretrain uses importlib.metadata.
    with (
        _without_pycocotools(importlib.metadata),
        _without_pycocotools(importlib_metadata),
    ):
        dependency = importlib.import_module('mmpretrain.utils.dependency')
    dependency.distribution = dependency.distribution.__wrapped__
