from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from .combinations import check_combination


class Comparison(NamedTuple):
    """What :meth:`MaskDistill.compare` gives; NaN at patches that do not count.

    Attributes:
        mask (Tensor): [B, N] bool, True = hidden.
        target (Tensor): The teacher's normalized features [B, N, Dt], or token
            ids [B, N], of all patches; a class token is left out.
        prediction (Tensor): The student's first readout, [B, N, Dt]; scores of
            the vocabulary for token ids.
        error (Tensor): Loss of each patch, summed over readouts, [B, N]; its
            mean is the loss but for that of a class token.
    """

    mask: Tensor
    target: Tensor
    prediction: Tensor
    error: Tensor


@MODELS.register_module()
class MaskDistill(BaseSelfSupervisor):
    """Masked distillation, the unified view of masked image modeling.

    ``loss = L( H( S(x, m) )[m], N( T(x) )[m] )``: from an image x whose
    patches m are hidden, the student S and the head H predict what the frozen
    teacher T and the normalizer N make of the whole image (arXiv 2210.10615,
    section 3). BEiT, MAE, SimMIM, MaskFeat, data2vec ... are other choices of
    T, N, S, H, L and m: see ``configs/unified``.

    The teacher belongs to no optimizer, stays in eval mode and, unless it
    learns from the student, belongs to no checkpoint and is shared by copies
    of the model.

    Args:
        backbone (dict): S; takes images [B, 3, H, W] and a mask [B, N] and
            gives, as its attribute ``gives`` says,

            - ``hidden`` (or no such attribute): the hidden patches' tokens
              [mask.sum(), Ds];
            - ``all``: every patch's, [B, N, Ds]; with its ``class_token``
              the class token's before them;
            - ``visible``: the class token and the visible patches,
              [B, 1+V, Ds];

            or a tuple of such readouts, each of which is predicted from; the
            losses add up.
        teacher (dict): T; takes images and gives features [B, N, Dt], or, if
            it has a ``vocab_size``, token ids [B, N]. With its
            ``class_token`` that token comes before the patches and always
            counts.
        normalizer (dict): N.
        head (dict): H, from Ds to Dt, or to scores of the vocabulary. One with
            ``decodes_visible`` takes visible tokens and the mask and gives
            [B, N, Dt].
        loss (dict): L.
        data_preprocessor (dict, optional): Gives ``inputs`` as two batches,
            the student's view of the images and the teacher's, each under its
            own mean and std, such as mmpretrain's
            ``TwoNormDataPreprocessor``; a single batch serves both.
        init_cfg (dict, optional): Initialization of the whole model.
        predict (str): Patches that count: ``hidden``, ``all``, ``visible``.
            Defaults to ``'hidden'``.
        masking (dict, optional): Makes the mask of the teacher's attention
            and of what the pipeline drew, such as ``AttentionMask``. Defaults
            to None, the pipeline's mask.

    Raises:
        ConfigError: If the parts do not fit one another.
    """

    def __init__(
        self,
        backbone: dict,
        teacher: dict,
        normalizer: dict,
        head: dict,
        loss: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        predict: str = 'hidden',
        masking: dict | None = None,
    ):
        super().__init__(
            backbone=backbone,
            head=head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        # Students that hide patches in another way have none.
        if getattr(self.backbone, 'mask_token', None) is not None:
            self.backbone.mask_token.requires_grad_()
        self.normalizer = MODELS.build(normalizer)
        self.distance = MODELS.build(loss)
        self.predict = predict
        self.masking = None if masking is None else MODELS.build(masking)
        teacher = MODELS.build(teacher)
        self._learns = hasattr(teacher, 'follow')
        if self._learns:
            teacher.follow(self.backbone)
            self.teacher = teacher
        else:
            # Not an attribute that torch registers: `parameters`,
            # `state_dict` and `train` must not see it.
            self.__dict__['teacher'] = teacher
        self._owns_teacher = not self._learns
        check_combination(self)
        self._teacher_skips = (
            predict == 'hidden'
            and masking is None
            and getattr(teacher, 'skips', False)
            and getattr(self.normalizer, 'per_token', False)
        )

    def init_weights(self):
        super().init_weights()
        if self._learns:
            self.teacher.update(self.backbone, momentum=0.0)

    def loss(
        self, inputs: list[Tensor], data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
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
        if self._learns and self.training:
            # Of the step before: it holds after resuming, too.
            self.teacher.update(self.backbone)
        drawn = torch.stack([sample.mask for sample in data_samples])
        self._check_grid(drawn)
        drawn = drawn.flatten(1)
        if self._teacher_skips and not drawn.is_floating_point():
            mask = where = drawn.bool()
            target = self.normalizer(self.teacher.at(teacher_view, where))
        else:
            target, mask = self._teach(teacher_view, drawn, data_samples)
            where = self._where(mask)
            target = target[where]
        if not len(target):
            raise ConfigError(
                f'predict={self.predict!r}, but no patch of the batch is: '
                "give the pipeline another mask, or set predict='all'"
            )
        predictions = self._predict(student_view, mask, where)
        return dict(loss=sum(self.distance(p, target) for p in predictions))

    def _check_grid(self, drawn: Tensor):
        """What the pipeline draws is for the student's patches."""
        rows, columns = self.backbone.patch_resolution
        if drawn.shape[1:] not in ((rows, columns), (rows * columns,)):
            grid = ' x '.join(map(str, drawn.shape[1:]))
            raise ConfigError(
                f'the pipeline draws masks of {grid} patches, the '
                f'student {type(self.backbone).__name__} has {rows} x '
                f'{columns}: set input_size=({rows}, {columns}) of the '
                'mask generator in train_pipeline'
            )

    def _teach(
        self, images: Tensor, drawn: Tensor, data_samples: list[DataSample] | None
    ) -> tuple[Tensor, Tensor]:
        """N(T(x)), [B, N, Dt], and the mask, [B, N] bool."""
        if self.masking is None:
            if drawn.is_floating_point():
                raise ConfigError(
                    'the pipeline draws noise, not masks: set '
                    "masking=dict(type='mmmaskdistill.AttentionMask', ...)"
                )
            features = self.teacher(images, data_samples)
            return self.normalizer(features), drawn.bool()
        features, attention = self.teacher.attend(images)
        return self.normalizer(features), self.masking(attention, drawn)

    def _where(self, mask: Tensor) -> Tensor:
        """Tokens of the teacher that count, [B, N] or [B, 1+N] bool."""
        if self.predict == 'all':
            where = torch.ones_like(mask)
        else:
            where = mask if self.predict == 'hidden' else ~mask
        if getattr(self.teacher, 'class_token', False):
            where = F.pad(where, (1, 0), value=True)
        return where

    def _predict(self, images: Tensor, mask: Tensor, where: Tensor) -> list[Tensor]:
        """H(S(x, m)) of the patches that count, [where.sum(), Dt] a readout."""
        readouts = self.backbone(images, mask)
        if not isinstance(readouts, tuple):
            readouts = (readouts,)
        gives = getattr(self.backbone, 'gives', 'hidden')
        if gives == 'visible':
            return [self.head(tokens, mask)[where] for tokens in readouts]
        if gives == 'all':
            readouts = [tokens[where] for tokens in readouts]
        return [self.head(tokens) for tokens in readouts]

    @torch.no_grad()
    def compare(
        self, inputs: list[Tensor], data_samples: list[DataSample]
    ) -> Comparison:
        """Both sides of the loss and each patch's share of it, for pictures.

        Arguments as for :meth:`loss`.
        """
        student_view, teacher_view = self._views(inputs)
        drawn = torch.stack([sample.mask for sample in data_samples])
        target, mask = self._teach(teacher_view, drawn.flatten(1), None)
        where = self._where(mask)
        predictions = self._predict(student_view, mask, where)
        prediction = predictions[0].new_full(
            (*where.shape, predictions[0].shape[-1]), torch.nan
        )
        prediction[where] = predictions[0]
        error = prediction.new_full(where.shape, torch.nan)
        # One token at a time, whatever the loss takes the mean of.
        error[where] = sum(
            torch.stack(
                [
                    self.distance(ours[None], theirs[None])
                    for ours, theirs in zip(p, target[where])
                ]
            )
            for p in predictions
        )
        patches = slice(where.shape[1] - mask.shape[1], None)
        return Comparison(
            mask, target[:, patches], prediction[:, patches], error[:, patches]
        )

    @staticmethod
    def _views(inputs) -> list[Tensor]:
        return [inputs, inputs] if isinstance(inputs, Tensor) else inputs

    def _apply(self, fn: Callable, *args, **kwargs):
        """Move the teacher to another device or dtype along with the model."""
        if self._owns_teacher:
            self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> 'MaskDistill':
        """A copy, such as EMAHook's, shares the teacher and never moves it."""
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        if not self._learns:
            memo[id(self.teacher)] = self.teacher
        copy.__dict__.update(deepcopy(self.__dict__, memo), _owns_teacher=False)
        return copy
