"""Pictures of pre-training, segmentations, training curves and measurements."""

from .ablation import draw_ablation, draw_budgets
from .curves import draw_curves, read_run, read_scalars, smooth
from .features import PCABasis, fit_pca_basis, pca_colors
from .pretraining import draw_pretraining
from .segmentation import colorize, draw_segmentation

__all__ = [
    'PCABasis',
    'colorize',
    'draw_ablation',
    'draw_budgets',
    'draw_curves',
    'draw_pretraining',
    'draw_segmentation',
    'fit_pca_basis',
    'pca_colors',
    'read_run',
    'read_scalars',
    'smooth',
]
