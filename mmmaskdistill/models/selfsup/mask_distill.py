from copy import deepcopy
from typing import Callable, Dict, List, Optional, Tuple

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class MaskDistill(BaseSelfSupervisor):
    """Masked distillation, the unified view of masked image modeling.

    ``loss = L( H( S(x, m) )[m], N( T(x) )[m] )``: from an image x whose
    patches m are hidden, the student S and the head H predict what the frozen
    teacher T and the normalizer N make of the whole image (arXiv 2210.10615,
    section 3).

    The teacher belongs to no optimizer and to no checkpoint, stays in eval
    mode, and copies of the model share it.

    Args:
        backbone (dict): S; takes images [B, 3, H, W] and a mask [B, N] and
            gives the hidden patches' tokens [mask.sum(), Ds].
        teacher (dict): T; takes images and gives features [B, N, Dt].
        normalizer (dict): N.
        head (dict): H.
        loss (dict): L.
        data_preprocessor (dict, optional): Gives ``inputs`` as two batches,
            the student's view of the images and the teacher's, each under its
            own mean and std, such as mmpretrain's
            ``TwoNormDataPreprocessor``; a single batch serves both.
        init_cfg (dict, optional): Initialization of the whole model.

    Raises:
        ConfigError: If the teacher's patch grid is not the student's, or the
            head does not give the teacher's number of channels.
    """

    def __init__(self,
                 backbone: dict,
                 teacher: dict,
                 normalizer: dict,
                 head: dict,
                 loss: dict,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None):
        super().__init__(
            backbone=backbone,
            head=head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)
        # Students that hide patches in another way have none.
        if getattr(self.backbone, 'mask_token', None) is not None:
            self.backbone.mask_token.requires_grad_()
        self.normalizer = MODELS.build(normalizer)
        self.distance = MODELS.build(loss)
        # Not an attribute that torch registers: `parameters`, `state_dict`
        # and `train` must not see it.
        self.__dict__['teacher'] = MODELS.build(teacher)
        self._owns_teacher = True
        self._check_fit()

    def loss(self, inputs: List[Tensor],
             data_samples: List[DataSample]) -> Dict[str, Tensor]:
        """Masked distillation loss.

        Args:
            inputs (list[Tensor]): Student's and teacher's view of the same
                crops, [B, 3, H, W] each.
            data_samples (list[DataSample]): Each with ``mask``, [h, w] or [N],
                nonzero = hidden.

        Returns:
            dict[str, Tensor]: ``loss``, a scalar.
        """
        student_view, teacher_view = self._views(inputs)
        mask = torch.stack([sample.mask for sample in data_samples])
        mask = mask.flatten(1).bool()  # [B, N]
        target = self.normalizer(self.teacher(teacher_view, data_samples))
        prediction = self.head(self.backbone(student_view, mask))
        return dict(loss=self.distance(prediction, target[mask]))

    @torch.no_grad()
    def predict_features(self, inputs: List[Tensor],
                         mask: Tensor) -> Tuple[Tensor, Tensor]:
        """Both sides of the loss, for pictures of them.

        Args:
            inputs (list[Tensor]): Student's and teacher's view of the same
                crops, [B, 3, H, W] each.
            mask (Tensor): [B, N] bool, True = hidden.

        Returns:
            tuple[Tensor, Tensor]: The student's predictions at the hidden
            patches, NaN at the others, and the teacher's normalized features,
            [B, N, Dt] each.
        """
        student_view, teacher_view = self._views(inputs)
        target = self.normalizer(self.teacher(teacher_view))
        prediction = torch.full_like(target, torch.nan)
        prediction[mask] = self.head(self.backbone(student_view, mask))
        return prediction, target

    @staticmethod
    def _views(inputs) -> List[Tensor]:
        return [inputs, inputs] if isinstance(inputs, Tensor) else inputs

    def _check_fit(self):
        """Fail on what cannot fit before any image is read."""
        self.teacher.match_grid(self.backbone.patch_resolution)
        if self.head.out_features != self.teacher.channels:
            raise ConfigError(
                f'the head gives {self.head.out_features} channels, the '
                f'features of {self.teacher.name} have '
                f'{self.teacher.channels}: set '
                f'head.out_channels={self.teacher.channels}')

    def _apply(self, fn: Callable, *args, **kwargs):
        """Move the teacher to another device or dtype along with the model."""
        if self._owns_teacher:
            self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> 'MaskDistill':
        """A copy, such as EMAHook's, shares the teacher and never moves it."""
        copy = type(self).__new__(type(self))
        memo.update({id(self): copy, id(self.teacher): self.teacher})
        copy.__dict__.update(
            deepcopy(self.__dict__, memo), _owns_teacher=False)
        return copy
