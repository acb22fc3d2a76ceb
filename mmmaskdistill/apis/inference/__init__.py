"""Use what was trained."""

from .loaded_model import LoadedModel
from .loading import load_model
from .results import Classification, Features, Segmentation

__all__ = ['Classification', 'Features', 'LoadedModel', 'Segmentation', 'load_model']
