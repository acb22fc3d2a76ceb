"""Masked distillation: the algorithm that puts T, N, S, H and L together."""

from collections.abc import Callable, Sequence
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
    """Targets, predictions and errors that :meth:`MaskDistill.compare` returns.

    The class token is left out of all of them.

    Attributes:
        mask (Tensor): The mask m, [B, N] bool, True = hidden.
        target (Tensor): The teacher's normalized features [B, N, Dt] of all
            patches, or the token ids [B, N] that the teacher returns.
        prediction (Tensor): Predictions [B, N, Dt] from the student's first
            output, or scores of the vocabulary if the target is token ids. NaN
            at patches that do not count in the loss.
        error (Tensor): Loss of each patch, [B, N], summed over the student's
            outputs. NaN at patches that do not count in the loss. The mean over
            those that count is the loss without the class token's part.
    """

    mask: Tensor
    target: Tensor
    prediction: Tensor
    error: Tensor


@MODELS.register_module()
class MaskDistill(BaseSelfSupervisor):
    """Masked distillation, the unified view of masked image modeling.

    The student sees an image of which some patches are hidden, and predicts the
    features that the teacher computes from the whole image. The loss of a batch
    (arXiv 2210.10615, section 3) is::

        loss = L(H(S(x, m))[m], N(T(x))[m])

    The letters stand for:

    - x, the images of the batch, [B, 3, H, W];
    - m, the mask, [B, N] bool: True hides a patch from the student. ``[m]``
      selects the hidden patches;
    - T, the teacher. It is frozen, sees the whole images and returns the
      features of all patches, [B, N, Dt];
    - N, the normalizer. It turns the teacher's features into the targets,
      [B, N, Dt], and has no learnable parameters;
    - S, the student. It sees the images without the hidden patches and returns
      tokens with Ds channels;
    - H, the head. It maps the student's tokens to predictions with Dt channels;
    - L, the loss. It measures the distance between predictions and targets.

    In shapes, B is the number of images and N is the number of patches.

    BEiT, MAE, SimMIM, MaskFeat, data2vec and others are further choices of
    teacher, normalizer, student, head, loss and mask: see ``configs/unified``.

    The teacher stays in eval mode and no optimizer updates it. A teacher with a
    method ``follow`` learns from the student, as ``MomentumTeacher`` does, and
    belongs to the model's checkpoints. Any other teacher is not contained in
    checkpoints, and copies of the model share it.

    Args:
        backbone (dict): Config of the student S. It takes images [B, 3, H, W]
            and a mask [B, N]. Its attribute ``gives`` says which tokens it
            returns:

            - ``'hidden'`` (or no such attribute): the hidden patches,
              [mask.sum(), Ds];
            - ``'all'``: all patches, [B, N, Ds], or [B, 1+N, Ds] with the class
              token first if its attribute ``class_token`` is True;
            - ``'visible'``: the class token and the V visible patches of each
              image, [B, 1+V, Ds].

            It may also return a tuple of several outputs of this kind. The head
            then predicts from each of them, and the losses are added.
        teacher (dict): Config of the teacher T. It takes images and returns
            features [B, N, Dt], or token ids [B, N] if it has a
            ``vocab_size``. If its attribute ``class_token`` is True, the class
            token comes before the patches, and always counts in the loss.
        normalizer (dict): Config of the normalizer N.
        head (dict): Config of the head H, from Ds channels to Dt, or to the
            scores of a vocabulary. A head whose attribute ``decodes_visible``
            is True takes visible tokens and the mask, and returns predictions
            [B, N, Dt] for all patches.
        loss (dict): Config of the loss L.
        data_preprocessor (dict, optional): Config of the data preprocessor. It
            returns ``inputs`` either as one batch, or as two batches with the
            student's and the teacher's view of the images, each normalized with
            a mean and std of its own, as mmpretrain's
            ``TwoNormDataPreprocessor`` does. Defaults to None, mmpretrain's
            ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Initialization of the whole model.
        predict (str): Patches that count in the loss: ``'hidden'`` (as in the
            formula), ``'all'`` or ``'visible'``. Defaults to ``'hidden'``.
        masking (dict, optional): Config of a module, such as ``AttentionMask``,
            that makes the mask from the teacher's attention and from the noise
            that the pipeline has drawn. Defaults to None: the pipeline draws
            the mask.

    Raises:
        ConfigError: If two of the parts do not fit together.
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
        # Backbones create their mask token frozen, because only pre-training
        # uses it. Some students have no mask token.
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
            # Assigning the attribute would register the teacher as a submodule,
            # and then `parameters`, `state_dict` and `train` would include it.
            self.__dict__['teacher'] = teacher
        self._owns_teacher = not self._learns
        check_combination(self)
        self._teacher_skips = (
            predict == 'hidden'
            and masking is None
            and getattr(teacher, 'skips', False)
            and getattr(self.normalizer, 'per_token', False)
        )

    def init_weights(self) -> None:
        """Initialize the model, and copy the student to a teacher that learns."""
        super().init_weights()
        if self._learns:
            self.teacher.update(self.backbone, momentum=0.0)

    def loss(
        self, inputs: Sequence[Tensor] | Tensor, data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss ``L(H(S(x, m))[m], N(T(x))[m])``.

        Args:
            inputs (Sequence[Tensor] | Tensor): The student's and the teacher's
                view of the same crops, [B, 3, H, W] each, or one batch
                [B, 3, H, W] for both. The two views may differ in size.
            data_samples (list[DataSample]): Data samples with a ``mask``, [h, w]
                or [N], in which nonzero means hidden. With ``masking`` it is
                the noise that the module needs.

        Returns:
            dict[str, Tensor]: ``loss``, a scalar.

        Raises:
            ConfigError: If the pipeline draws masks for another patch grid than
                the student's, or noise where a mask is needed, or if no patch
                of the batch counts in the loss.
        """
        student_view, teacher_view = self._views(inputs)
        if self._learns and self.training:
            # The student has been updated by the previous step. A checkpoint
            # contains the student after its last step and the teacher before
            # this update, so a resumed run computes the same average.
            self.teacher.update(self.backbone)
        drawn = torch.stack([sample.mask for sample in data_samples])
        self._check_grid(drawn)
        drawn = drawn.flatten(1)
        if self._teacher_skips and not drawn.is_floating_point():
            # The teacher leaves out the patches that are not hidden.
            mask = where = drawn.bool()
            target = self.normalizer(self.teacher.at(teacher_view, where))
        else:
            target, mask = self._teach(teacher_view, drawn, data_samples)
            where = self._where(mask)
            target = target[where]  # N(T(x))[m]
        if not len(target):
            raise ConfigError(
                f'predict={self.predict!r}, but no patch of the batch is '
                f'{self.predict}: let the pipeline draw another mask, or set '
                "predict='all'"
            )
        predictions = self._predict(student_view, mask, where)  # H(S(x, m))[m]
        return dict(loss=sum(self.distance(p, target) for p in predictions))

    def _check_grid(self, drawn: Tensor):
        """Check that the pipeline draws masks for the student's patch grid."""
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
        """Compute the targets N(T(x)), [B, N, Dt], and the mask m, [B, N] bool."""
        if self.masking is None:
            if drawn.is_floating_point():
                raise ConfigError(
                    'the pipeline draws noise, but a mask is needed: set '
                    "masking=dict(type='mmmaskdistill.AttentionMask', ...)"
                )
            features = self.teacher(images, data_samples)
            return self.normalizer(features), drawn.bool()
        features, attention = self.teacher.attend(images)
        return self.normalizer(features), self.masking(attention, drawn)

    def _where(self, mask: Tensor) -> Tensor:
        """Find the targets that count in the loss, [B, N] or [B, 1+N] bool."""
        if self.predict == 'all':
            where = torch.ones_like(mask)
        else:
            where = mask if self.predict == 'hidden' else ~mask
        if getattr(self.teacher, 'class_token', False):
            where = F.pad(where, (1, 0), value=True)
        return where

    def _predict(self, images: Tensor, mask: Tensor, where: Tensor) -> list[Tensor]:
        """Compute the predictions H(S(x, m)) that count in the loss.

        Args:
            images (Tensor): The student's view of the images, [B, 3, H, W].
            mask (Tensor): The mask m, [B, N] bool.
            where (Tensor): What counts in the loss, see :meth:`_where`.

        Returns:
            list[Tensor]: Predictions [where.sum(), Dt] from each output of the
            student.
        """
        outputs = self.backbone(images, mask)
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        gives = getattr(self.backbone, 'gives', 'hidden')
        if gives == 'visible':
            return [self.head(tokens, mask)[where] for tokens in outputs]
        if gives == 'all':
            outputs = [tokens[where] for tokens in outputs]
        return [self.head(tokens) for tokens in outputs]

    @torch.no_grad()
    def compare(
        self, inputs: Sequence[Tensor] | Tensor, data_samples: list[DataSample]
    ) -> Comparison:
        """Compute targets, predictions and errors of each patch, for pictures.

        Args:
            inputs (Sequence[Tensor] | Tensor): As for :meth:`loss`.
            data_samples (list[DataSample]): As for :meth:`loss`.

        Returns:
            Comparison: Mask, targets, predictions and errors of the patches.

        Raises:
            ConfigError: If the pipeline draws noise where a mask is needed.
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
        # A loss is a mean over all tokens that it is given, so that it has to be
        # called for each token separately.
        error[where] = sum(
            torch.stack(
                [
                    self.distance(predicted[None], wanted[None])
                    for predicted, wanted in zip(p, target[where])
                ]
            )
            for p in predictions
        )
        patches = slice(where.shape[1] - mask.shape[1], None)
        return Comparison(
            mask, target[:, patches], prediction[:, patches], error[:, patches]
        )

    @staticmethod
    def _views(inputs: Sequence[Tensor] | Tensor) -> Sequence[Tensor]:
        return [inputs, inputs] if isinstance(inputs, Tensor) else inputs

    def _apply(self, fn: Callable, *args, **kwargs):
        """Move the teacher to another device or dtype along with the model."""
        if self._owns_teacher:
            self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> 'MaskDistill':
        """Copy the model without a frozen teacher, which the copy shares.

        The copy, such as EMAHook's, never moves the shared teacher to another
        device or dtype.
        """
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        if not self._learns:
            memo[id(self.teacher)] = self.teacher
        copy.__dict__.update(deepcopy(self.__dict__, memo), _owns_teacher=False)
        return copy
