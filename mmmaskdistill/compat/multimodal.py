"""``import mmpretrain.models`` beside a newer ``transformers``.

mmpretrain 1.2.0 (and onedl-mmpretrain 1.3.6) imports its multimodal models
where ``transformers`` and ``pycocotools`` are installed, which detection users
have. transformers 5 moved functions that these models import, so the whole
import fails. The remedy: such a ``transformers`` counts as missing for the
multimodal models, which mmpretrain replaces by placeholders that raise when
they are built.
"""

import functools
import importlib.metadata
import importlib.util
import sys
from unittest.mock import patch

import importlib_metadata

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


def _without_pycocotools(metadata):
    """Patch of a metadata module, until mmpretrain has looked there.

    mmpretrain asks for pycocotools for no other purpose.
    """
    distribution = metadata.distribution

    @functools.wraps(distribution)
    def distribution_or_none(name):
        if name == 'pycocotools':
            raise metadata.PackageNotFoundError(name)
        return distribution(name)

    return patch.object(metadata, 'distribution', distribution_or_none)


def apply() -> None:
    if 'mmpretrain' in sys.modules or not _breaks_mmpretrain():
        return
    # mmpretrain looks in the second, onedl-mmpretrain in the first.
    with (
        _without_pycocotools(importlib.metadata),
        _without_pycocotools(importlib_metadata),
    ):
        dependency = importlib.import_module('mmpretrain.utils.dependency')
    dependency.distribution = dependency.distribution.__wrapped__
