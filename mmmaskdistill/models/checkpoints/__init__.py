"""One wing for checkpoints: files, formats, fitting, coverage, doors and export."""

from .coverage import ESSENTIAL, check_backbone, check_model, describe, vit_settings
from .doors import (
    apply_init_cfg,
    fit_before_loading,
    fit_content,
    init_model,
    load_backbone,
    load_model,
)
from .files import read_weights, write_weights
from .fitting import (
    FitsCheckpoints,
    Report,
    adapt_to_swin,
    adapt_to_timm,
    adapt_to_vit,
    fit,
    shapes_of,
)
from .formats import select_by_landmark, select_under, select_vit

__all__ = [
    'ESSENTIAL',
    'FitsCheckpoints',
    'Report',
    'adapt_to_swin',
    'adapt_to_timm',
    'adapt_to_vit',
    'apply_init_cfg',
    'check_backbone',
    'check_model',
    'describe',
    'fit',
    'fit_before_loading',
    'fit_content',
    'init_model',
    'load_backbone',
    'load_model',
    'read_weights',
    'select_by_landmark',
    'select_under',
    'select_vit',
    'shapes_of',
    'vit_settings',
    'write_weights',
]
