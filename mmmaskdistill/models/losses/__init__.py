"""The losses L, which compare the student's predictions with the targets.

mmpretrain's ``CosineSimilarityLoss`` can be used as well.
"""

from torch.nn import CrossEntropyLoss, L1Loss, MSELoss

from mmmaskdistill.registry import MODELS

from .loss_list import LossList
from .smooth_l1_loss import SmoothL1Loss

for _loss in (CrossEntropyLoss, L1Loss, MSELoss):
    MODELS.register_module(module=_loss)

__all__ = ['CrossEntropyLoss', 'L1Loss', 'LossList', 'MSELoss', 'SmoothL1Loss']
