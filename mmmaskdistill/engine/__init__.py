"""Runners, hooks, checkpoint checks and optimizer constructors for training."""

from .bfloat16 import Bfloat16OptimWrapper
from .layer_decay import LayerDecayOptimWrapperConstructor
from .momentum_teacher_hook import MomentumTeacherHook
from .runner import ResumableRunner

__all__ = [
    'Bfloat16OptimWrapper',
    'LayerDecayOptimWrapperConstructor',
    'MomentumTeacherHook',
    'ResumableRunner',
]
