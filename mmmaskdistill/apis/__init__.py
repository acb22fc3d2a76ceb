"""What a notebook calls, and what the tools share.

:func:`load_model` loads what was trained, and what it returns predicts;
:func:`load_embedder` loads what turns images into features. A config is
read by :func:`load_config` and changed by :func:`change_config`; :func:`build_runner`
builds what trains or tests it. :func:`init_pretraining` builds a pre-training model,
with the weights of a checkpoint or untrained, and :func:`show_pretraining` draws what
it computes. :func:`make_cells` makes the configs of an ablation. For example::

    from mmmaskdistill.apis import build_runner, load_config

    build_runner(load_config('configs/quickstart/pretrain.py')).train()

The functions that apply the options of ``tools/train.py`` and ``tools/test.py`` to a
config are in the modules ``configs`` and ``checks``.
"""

from .ablation import Cell, check_cell, make_cells
from .checks import check, check_data, check_masks, check_weights
from .configs import build_runner, change_config, load_config
from .embedding import Embedder, embed_files, load_embedder
from .inference import (
    Classification,
    Features,
    LoadedModel,
    Segmentation,
    load_model,
    predict_large,
)
from .pretraining import (
    build_pretraining,
    init_pretraining,
    make_teachers_random,
    show_pretraining,
)

__all__ = [
    'Cell',
    'Classification',
    'Embedder',
    'Features',
    'LoadedModel',
    'Segmentation',
    'build_pretraining',
    'build_runner',
    'change_config',
    'check',
    'check_cell',
    'check_data',
    'check_masks',
    'check_weights',
    'embed_files',
    'init_pretraining',
    'load_config',
    'load_embedder',
    'load_model',
    'make_cells',
    'make_teachers_random',
    'predict_large',
    'show_pretraining',
]
