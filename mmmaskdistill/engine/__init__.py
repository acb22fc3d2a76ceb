"""Runners, hooks, checkpoint checks and optimizer constructors for training."""

from .layer_decay import LayerDecayOptimWrapperConstructor
from .momentum_teacher_hook import MomentumTeacherHook
from .runner import ResumableRunner

__all__ = [
    'LayerDecayOptimWrapperConstructor',
    'MomentumTeacherHook',
    'ResumableRunner',
]
