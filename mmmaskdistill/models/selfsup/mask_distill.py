"""Masked distillation: the algorithm that puts T, N, S, H and L together."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from inspect import signature
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS
from mmmaskdistill.schedules import parse_ramp

from ..checkpoints import init_model
from ..contracts import check_part
from ..heads import Head
from ..layers import PatchIndex, select
from ..normalizers import Normalizer
from ..teachers import Teacher
from .combinations import check_combination, check_student
from .masking import Masking


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
            outputs. NaN at patches that do not count in the loss. With a visible
            weight of 1 the mean over those that count is the loss without the class
            token's part.
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

    With ``predict='all'`` visible patches count as well, with the weight v
    (``visible_weight``) of a hidden patch. If a batch has h hidden and n visible
    patches, its loss is::

        loss = (
            h * L(H(S(x, m))[m], N(T(x))[m]) + v * n * L(H(S(x, m))[~m], N(T(x))[~m])
        ) / (h + v * n)

    With v = 1 this is the mean over all patches, and with v = 0 it is the loss
    above. What has the weight 0 is not computed.

    BEiT, MAE, SimMIM, MaskFeat, data2vec and others are further choices of
    teacher, normalizer, student, head, loss and mask: see ``configs/unified``.

    Each part inherits from the class that says what it owes: :class:`Teacher`,
    :class:`Normalizer`, :class:`Student`, :class:`Head` and :class:`Masking`. The
    loss may be any module, see :class:`Loss`.

    The teacher stays in eval mode and no optimizer updates it. A teacher that
    follows the student, as ``MomentumTeacher`` does, belongs to the model's
    checkpoints, and ``MomentumTeacherHook`` updates it. Any other teacher is not
    contained in checkpoints, and copies of the model share it.

    Args:
        backbone (dict): Config of the student S, a :class:`Student`.
        teacher (dict): Config of the teacher T, a :class:`Teacher`.
        normalizer (dict): Config of the normalizer N, a :class:`Normalizer`.
        head (dict): Config of the head H, a :class:`Head`, from Ds channels to Dt,
            or to the scores of a vocabulary.
        loss (dict): Config of the loss L.
        data_preprocessor (dict, optional): Config of the data preprocessor. It
            returns ``inputs`` either as one batch, or as two batches with the
            student's and the teacher's view of the images, each normalized with
            a mean and std of its own, as mmpretrain's
            ``TwoNormDataPreprocessor`` does. Defaults to None, mmpretrain's
            ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Initialization of the whole model.
            ``dict(type='Pretrained', checkpoint=...)`` loads a checkpoint, which must
            cover the student. Defaults to None.
        predict (str): Patches that count in the loss: ``'hidden'`` (as in the
            first formula), ``'all'`` or ``'visible'``. Defaults to ``'hidden'``.
        visible_weight (float | dict): Weight v of a visible patch with
            ``predict='all'``, or the arguments of a
            :class:`~mmmaskdistill.schedules.Ramp`, such as ``dict(start=1, end=0)``,
            if the weight changes during the run. Defaults to 1.
        masking (dict, optional): Config of a :class:`Masking`, such as
            ``AttentionMask``, that makes the mask from the teacher's attention and
            from the noise that the pipeline has drawn. Defaults to None: the
            pipeline draws the mask.

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
        visible_weight: float | dict = 1.0,
    ):
        super().__init__(
            backbone=backbone,
            head=head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        check_student(self.backbone)
        # Backbones create their mask token frozen, because only pre-training
        # uses it. Some students have no mask token.
        if self.backbone.mask_token is not None:
            self.backbone.mask_token.requires_grad_()
        # The forward method of a student may also take nothing but the mask.
        parameters = signature(self.backbone.forward).parameters
        self._student_takes_index = 'index' in parameters
        self._student_takes_where = 'where' in parameters
        check_part(self.head, Head)
        self.normalizer = check_part(MODELS.build(normalizer), Normalizer)
        self.distance = MODELS.build(loss)
        self.predict = predict
        self.visible_weight = parse_ramp(visible_weight, 'visible_weight')
        self.masking = (
            None if masking is None else check_part(MODELS.build(masking), Masking)
        )
        teacher = check_part(MODELS.build(teacher), Teacher)
        if teacher.follows_student:
            teacher.follow(self.backbone)
            self.teacher = teacher
        else:
            # Assigning the attribute would register the teacher as a submodule,
            # and then `parameters`, `state_dict` and `train` would include it.
            self.__dict__['teacher'] = teacher
        self._owns_teacher = not teacher.follows_student
        self._at_first_loss, self._followed = None, False
        check_combination(self)

    def init_weights(self) -> None:
        """Initialize the model, and copy the student to a teacher that follows it.

        Raises:
            CheckpointError: If a checkpoint of ``init_cfg`` cannot be read or does not
                fit.
        """
        init_model(self, super().init_weights)
        if self.teacher.follows_student:
            self.teacher.update(self.backbone, momentum=0.0)

    def loss(
        self, inputs: Sequence[Tensor] | Tensor, data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch, by the formulas of the class.

        Args:
            inputs (Sequence[Tensor] | Tensor): The student's and the teacher's
                view of the same crops, [B, 3, H, W] each, or one batch
                [B, 3, H, W] for both. The two views may differ in size.
            data_samples (list[DataSample]): Data samples with a ``mask``, [h, w]
                or [N], in which nonzero means hidden. With ``masking`` they have
                the ``noise`` that the module needs instead, of the same shape.
                Indices of the ``hidden`` and ``visible`` patches, which
                :class:`TwoViewDataPreprocessor` adds, spare the host from waiting
                for the GPU. A ``visible_weight`` that changes needs the
                ``progress`` of the run, which the runner adds.

        Returns:
            dict[str, Tensor]: ``loss``, a scalar. With ``predict='all'`` and indices
            of hidden and visible patches, also ``distance_hidden`` and
            ``distance_visible`` for the log: the mean distances L of the hidden and
            of the visible patches.

        Raises:
            ConfigError: If the samples have no mask, or no noise where it is
                needed, or that of another patch grid than the student's, if no
                patch of the batch counts in the loss, if the visible weight changes
                and the samples have no progress, or if nobody updates a teacher that
                follows the student.
        """
        self._check_teacher_follows()
        student_view, teacher_view = self._views(inputs)
        drawn = self._drawn(data_samples)
        weight = self._visible_weight(data_samples)
        predict = self._counting(weight)
        # m, what [m] selects, and N(T(x))[m]
        index = self._index(data_samples)
        mask, where, target = self._teach(
            teacher_view, drawn, predict, data_samples, index
        )
        if not len(target):
            advice = "set predict='all'"
            if self.predict == 'all':
                advice = 'let visible_weight stay above 0'
            raise ConfigError(
                f'predict={self.predict!r}'
                + (', and visible_weight is 0' if self.predict == 'all' else '')
                + f', but no patch of the batch is {predict}: let the pipeline draw '
                f'another mask, or {advice}'
            )
        # H(S(x, m))[m]
        predictions = self.predictions(student_view, mask, where, index)
        if predict != 'all':
            return dict(loss=sum(self.distance(p, target) for p in predictions))
        if weight == 1:
            loss = sum(self.distance(p, target) for p in predictions)
            # Without indices, finding the parts would wait for the GPU.
            parts = {}
            if index is not None and index.hidden.numel() and index.visible.numel():
                with torch.no_grad():
                    parts = self._parts(predictions, target, mask, index)
        else:
            parts = self._parts(predictions, target, mask, index)
            weights = {
                name: count * (weight if name == 'visible' else 1.0)
                for name, (count, _) in parts.items()
            }
            total = sum(weights.values())
            # The weights are divided first: the numbers of patches times a distance
            # would not be finite in half precision.
            loss = sum(weights[name] / total * d for name, (_, d) in parts.items())
        return dict(
            loss=loss,
            **{f'distance_{name}': d.detach() for name, (_, d) in parts.items()},
        )

    def _parts(
        self,
        predictions: list[Tensor],
        target: Tensor,
        mask: Tensor,
        index: PatchIndex | None,
    ) -> dict[str, tuple[int, Tensor]]:
        """Measure the distances of hidden and of visible patches separately.

        The class token belongs to the hidden patches.

        Args:
            predictions (list[Tensor]): Predictions [B*N, Dt] of all tokens, one for
                each output of the student.
            target (Tensor): Targets [B*N, Dt], or token ids [B*N].
            mask (Tensor): The mask m, [B, N] bool, True = hidden.
            index (PatchIndex | None): The mask as indices.

        Returns:
            dict[str, tuple[int, Tensor]]: For ``'hidden'`` and ``'visible'`` the number
            of tokens and the sum of their distances over the predictions. A part
            without tokens is left out, because its mean would be NaN.
        """
        hidden = self.counted(mask, index, 'hidden')
        if index is None:
            visible = ~hidden
        else:
            visible = index.visible + int(self.teacher.class_token)
        *predictions, target = (
            x.unflatten(0, (len(mask), -1)) for x in (*predictions, target)
        )
        parts = {}
        for name, where in (('hidden', hidden), ('visible', visible)):
            wanted = select(target, where)
            if len(wanted):
                distances = [
                    self.distance(select(p, where), wanted) for p in predictions
                ]
                parts[name] = len(wanted), sum(distances)
        return parts

    def counting_at(self, progress: float) -> str:
        """Return which patches count in the loss at a progress of the run.

        Args:
            progress (float): Share of the run that lies behind, from 0 to 1.

        Returns:
            str: ``'hidden'``, ``'all'`` or ``'visible'``. Visible patches with the
            weight 0 do not count.
        """
        return self._counting(self.visible_weight(progress))

    def _counting(self, weight: float) -> str:
        return 'hidden' if weight == 0 else self.predict

    def _visible_weight(self, data_samples: list[DataSample]) -> float:
        """Return the weight of visible patches in a batch; 1 without ``predict='all'``.

        Outside of training it has the value of the run's end.
        """
        ramp = self.visible_weight
        if not self.training or ramp.start == ramp.end:
            return ramp(1.0)
        progress = data_samples[0].get('progress')
        if progress is None:
            raise ConfigError(
                f'visible_weight={ramp} changes during the run, but the samples have '
                'no progress: train with tools/train.py or ResumableRunner and a '
                "train_cfg that has max_epochs or max_iters, or add 'progress' to the "
                'data samples'
            )
        return ramp(progress)

    def _teach(
        self,
        images: Tensor,
        drawn: Tensor,
        predict: str,
        data_samples: list[DataSample] | None,
        index: PatchIndex | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Find the mask m, the tokens that count, and their targets N(T(x))[m].

        Args:
            images (Tensor): The teacher's view of the images, [B, 3, H, W].
            drawn (Tensor): The mask or the noise from the pipeline, [B, N].
            predict (str): Which patches count.
            data_samples (list[DataSample] | None): Data samples for the teacher.
            index (PatchIndex, optional): The mask as indices. Defaults to None.

        Returns:
            tuple[Tensor, Tensor | None, Tensor]: The mask m, [B, N] bool, the tokens
            that count as :meth:`counted` returns them, and their targets as
            :meth:`target` returns them.
        """
        if self.masking is None:
            mask = drawn.bool()
            where = self.counted(mask, index, predict)
            return mask, where, self.target(images, where, data_samples, predict)
        features, attention = self.teacher.attend(images)
        mask = self.masking(attention, drawn)
        where = self.counted(mask, predict=predict)
        return mask, where, select(self.normalizer(features), where)

    def counted(
        self,
        mask: Tensor,
        index: PatchIndex | None = None,
        predict: str | None = None,
    ) -> Tensor | None:
        """Find the tokens that count in the loss.

        Args:
            mask (Tensor): The mask m, [B, N] bool, True = hidden.
            index (PatchIndex, optional): The mask as indices. Defaults to None.
            predict (str, optional): Which patches count: ``'hidden'``, ``'all'`` or
                ``'visible'``. Defaults to None, the model's ``predict``.

        Returns:
            Tensor | None: [B, N] bool, or [B, 1+N] if the teacher returns its class
            token, which always counts. With ``index`` the same as indices [B, M]
            int64, or None if all tokens count.
        """
        predict = predict or self.predict
        if index is not None:
            if predict == 'all':
                return None
            where = index.hidden if predict == 'hidden' else index.visible
            return F.pad(where + 1, (1, 0)) if self.teacher.class_token else where
        if predict == 'all':
            where = torch.ones_like(mask)
        else:
            where = mask if predict == 'hidden' else ~mask
        return F.pad(where, (1, 0), value=True) if self.teacher.class_token else where

    def target(
        self,
        images: Tensor,
        where: Tensor | None,
        data_samples: list[DataSample] | None = None,
        predict: str | None = None,
    ) -> Tensor:
        """Compute the targets N(T(x))[m].

        Args:
            images (Tensor): The teacher's view of the images, [B, 3, H, W].
            where (Tensor | None): The tokens that count, see :meth:`counted`.
            data_samples (list[DataSample], optional): Data samples for the teacher.
                Defaults to None.
            predict (str, optional): Which patches count. Defaults to None, the
                model's ``predict``.

        Returns:
            Tensor: Normalized features [where.sum(), Dt], or token ids
            [where.sum()].
        """
        if (
            (predict or self.predict) == 'hidden'
            and self.teacher.can_skip
            and self.normalizer.per_token
        ):
            return self.normalizer(self.teacher.at(images, where))
        return select(self.normalizer(self.teacher(images, data_samples)), where)

    def predictions(
        self,
        images: Tensor,
        mask: Tensor,
        where: Tensor | None,
        index: PatchIndex | None = None,
    ) -> list[Tensor]:
        """Compute the predictions H(S(x, m))[m].

        Args:
            images (Tensor): The student's view of the images, [B, 3, H, W].
            mask (Tensor): The mask m, [B, N] bool, True = hidden.
            where (Tensor | None): The tokens that count, see :meth:`counted`.
            index (PatchIndex, optional): The mask as indices. Defaults to None.

        Returns:
            list[Tensor]: Predictions [where.sum(), Dt] from each output of the
            student.
        """
        selects = self._student_takes_where and index is not None
        if selects:
            outputs = self.backbone(images, mask, index, where)
        elif self._student_takes_index:
            outputs = self.backbone(images, mask, index)
        else:
            outputs = self.backbone(images, mask)
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        if selects:
            return [self.head(tokens.flatten(0, -2)) for tokens in outputs]
        if self.backbone.tokens == 'visible':
            return [select(self.head(tokens, mask), where) for tokens in outputs]
        if self.backbone.tokens == 'all':
            outputs = [select(tokens, where) for tokens in outputs]
        return [self.head(tokens) for tokens in outputs]

    @torch.no_grad()
    def compare(
        self, inputs: Sequence[Tensor] | Tensor, data_samples: list[DataSample]
    ) -> Comparison:
        """Compute targets, predictions and errors of each patch, for pictures.

        A ``visible_weight`` that changes has the value of the run's end.

        Args:
            inputs (Sequence[Tensor] | Tensor): As for :meth:`loss`.
            data_samples (list[DataSample]): As for :meth:`loss`.

        Returns:
            Comparison: Mask, targets, predictions and errors of the patches.

        Raises:
            ConfigError: If the samples have no mask, or no noise where it is
                needed, or that of another patch grid than the student's.
        """
        student_view, teacher_view = self._views(inputs)
        # Without data samples a `CachedTeacher` does not keep the features.
        mask, where, target = self._teach(
            teacher_view, self._drawn(data_samples), self.counting_at(1.0), None
        )
        predictions = self.predictions(student_view, mask, where)
        # The picture shows the targets of the patches that do not count, too.
        everywhere = self.normalizer(self.teacher(teacher_view))
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
                    for predicted, wanted in zip(p, target)
                ]
            )
            for p in predictions
        )
        patches = slice(where.shape[1] - mask.shape[1], None)
        return Comparison(
            mask, everywhere[:, patches], prediction[:, patches], error[:, patches]
        )

    def _drawn(self, data_samples: list[DataSample]) -> Tensor:
        """Stack what the pipeline has drawn: masks, or noise with ``masking``.

        Returns:
            Tensor: [B, N].
        """
        key = 'mask' if self.masking is None else 'noise'
        if not all(key in sample for sample in data_samples):
            raise ConfigError(self._missing(key))
        drawn = torch.stack([sample.get(key) for sample in data_samples])
        rows, columns = self.backbone.grid
        if drawn.shape[1:] not in ((rows, columns), (rows * columns,)):
            grid = ' x '.join(map(str, drawn.shape[1:]))
            drawer = 'mask generator' if key == 'mask' else 'GumbelNoise'
            raise ConfigError(
                f'the pipeline draws {"masks" if key == "mask" else "noise"} of '
                f'{grid} patches, the student {type(self.backbone).__name__} has '
                f'{rows} x {columns}: set input_size=({rows}, {columns}) of the '
                f'{drawer} in train_pipeline'
            )
        return drawn.flatten(1)

    @staticmethod
    def _index(data_samples: list[DataSample]) -> PatchIndex | None:
        """Stack the indices that the data preprocessor has made of the masks."""
        if not all('hidden' in sample for sample in data_samples):
            return None
        return PatchIndex(
            torch.stack([sample.hidden for sample in data_samples]),
            torch.stack([sample.visible for sample in data_samples]),
        )

    def _missing(self, key: str) -> str:
        """Say what to add to a pipeline whose samples lack the mask or the noise."""
        if key == 'mask':
            return (
                'the samples have no mask: add a mask generator, such as '
                'mmmaskdistill.BlockMaskGenerator, to train_pipeline, or, if it '
                'draws noise, set '
                "model.masking=dict(type='mmmaskdistill.AttentionMask', ...)"
            )
        return (
            f'{type(self.masking).__name__} needs noise, but the samples have none: '
            "set dict(type='mmmaskdistill.GumbelNoise', ...) in place of the mask "
            "generator, and dict(type='PackInputs', algorithm_keys=['noise']) at the "
            'end of train_pipeline'
        )

    def _check_teacher_follows(self):
        """Check that somebody updates a teacher that follows the student.

        Nobody does if a weight of the student has changed since the first loss of
        the training, and no tensor of the teacher has. The check ends with the first
        update, so that later steps do not wait for the device.
        """
        if self._followed or not (self.training and self.teacher.follows_student):
            return
        weight = next(p for p in self.backbone.parameters() if p.requires_grad)
        # torch counts how often a tensor was changed in place. It does not count
        # the steps of fused optimizers, so this serves for the teacher only.
        changes = sum(
            tensor._version
            for tensor in chain(self.teacher.parameters(), self.teacher.buffers())
        )
        if self._at_first_loss is None:
            self._at_first_loss = weight.detach().clone(), changes
            return
        first_weight, first_changes = self._at_first_loss
        self._followed = changes != first_changes
        if not self._followed and not torch.equal(weight, first_weight.to(weight)):
            raise ConfigError(
                f'the teacher {self.teacher.name} has to follow the student, but the '
                'optimizer has changed the student and nobody has updated the '
                "teacher: add dict(type='mmmaskdistill.MomentumTeacherHook') to "
                'custom_hooks of the config, or, in a training loop of your own, call '
                'model.teacher.update(model.backbone) after each step of the '
                'optimizer'
            )

    def _views(self, inputs: Sequence[Tensor] | Tensor) -> Sequence[Tensor]:
        """Return the student's and the teacher's view, [B, C, H, W] each."""
        views = [inputs, inputs] if isinstance(inputs, Tensor) else inputs
        expected, channels = self.teacher.in_channels, views[1].shape[1]
        if expected not in (None, channels):
            raise ConfigError(
                f'the teacher {self.teacher.name} sees images of {expected} channels, '
                f'but its view has {channels}: let teacher_bands of '
                'TwoViewDataPreprocessor choose them, such as '
                f'teacher_bands={[k % channels for k in range(expected)]}'
            )
        return views

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
        if not self.teacher.follows_student:
            memo[id(self.teacher)] = self.teacher
        copy.__dict__.update(deepcopy(self.__dict__, memo), _owns_teacher=False)
        return copy
