"""Runners, hooks, checkpoint checks and optimizer constructors for training."""

from .layer_decay import LayerDecayOptimWrapperConstructor
from .runner import ResumableRunner

__all__ = ['LayerDecayOptimWrapperConstructor', 'ResumableRunner']
