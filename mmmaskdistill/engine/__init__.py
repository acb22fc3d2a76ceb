from .layer_decay import LayerDecayOptimWrapperConstructor
from .runner import ResumableRunner

__all__ = ['LayerDecayOptimWrapperConstructor', 'ResumableRunner']
