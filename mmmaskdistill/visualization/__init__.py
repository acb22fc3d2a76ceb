"""Pictures of pre-training, predictions, training curves and measurements."""

from .ablation import draw_ablation, draw_budgets
from .confusion import draw_confusion
from .curves import draw_curves, read_run, read_scalars, smooth
from .features import PCABasis, fit_pca_basis, pca_colors
from .pretraining import draw_pretraining
from .segmentation import colorize, draw_segmentation
from .worst import draw_worst_classifications, draw_worst_segmentations

__all__ = [
    'PCABasis',
    'colorize',
    'draw_ablation',
    'draw_budgets',
    'draw_confusion',
    'draw_curves',
    'draw_pretraining',
    'draw_segmentation',
    'draw_worst_classifications',
    'draw_worst_segmentations',
    'fit_pca_basis',
    'pca_colors',
    'read_run',
    'read_scalars',
    'smooth',
]
