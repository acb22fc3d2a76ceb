"""Use what was trained."""

from .loaded_model import LoadedModel
from .loading import load_model
from .results import Classification, Features, Segmentation
from .tiling import TiledPrediction, predict_large

__all__ = [
    'Classification',
    'Features',
    'LoadedModel',
    'Segmentation',
    'TiledPrediction',
    'load_model',
    'predict_large',
]
