"""The losses L, which compare the student's predictions with the targets.

Losses of other libraries, such as mmpretrain's ``CosineSimilarityLoss``, and your own
modules can be used as well: see :class:`Loss`.
"""

from torch.nn import CrossEntropyLoss, L1Loss, MSELoss, SmoothL1Loss

from mmmaskdistill.registry import MODELS

from .base import Loss
from .loss_list import LossList

for _loss in (CrossEntropyLoss, L1Loss, MSELoss, SmoothL1Loss):
    MODELS.register_module(module=_loss)

__all__ = ['CrossEntropyLoss', 'L1Loss', 'Loss', 'LossList', 'MSELoss', 'SmoothL1Loss']
