"""The data preprocessor of masked distillation."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.model.base_model.data_preprocessor import CastData
from mmpretrain.models.utils import TwoNormDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import PatchIndex, index_patches


@MODELS.register_module()
class TwoViewDataPreprocessor(TwoNormDataPreprocessor):
    """Normalize each image once for the student and once for the teacher.

    This is mmpretrain's ``TwoNormDataPreprocessor`` for images with any number C of
    channels, and for pipelines that pack either one or two pictures of each sample. If
    there is one picture, both views are made from it on the device; then the picture is
    interpolated, collated and transferred only once.

    A teacher that was trained with RGB images can teach a student that sees more:
    ``teacher_bands`` chooses and orders the channels of its view.

    Args:
        mean (Sequence[float], optional): Mean of the student's view for each of the C
            channels, such as R, G and B, in the values of the images, such as 0 to 255;
            or one number for all. Defaults to None: neither view is normalized.
        std (Sequence[float], optional): Standard deviation of the student's view.
        second_mean (Sequence[float]): Mean of each channel of the teacher's view.
        second_std (Sequence[float]): Standard deviation of the teacher's view.
        to_rgb (bool): Whether to convert the images from BGR to RGB. Defaults
            to False.
        non_blocking (bool): Whether to go on without waiting for the transfer
            to the device. Defaults to False.
        teacher_bands (Sequence[int], optional): Channels of the student's view, counted
            from 0, that are the channels of the teacher's view. Gray images can be
            shown to an RGB teacher with ``[0, 0, 0]``. Defaults to None, all channels.

    Raises:
        ConfigError: If the lengths of the means and deviations do not fit each other or
            ``teacher_bands``, or ``to_rgb`` is set for other than three channels; or,
            while training, if the images have another number of channels.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        second_mean: Sequence[float] | None = None,
        second_std: Sequence[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = False,
        teacher_bands: Sequence[int] | None = None,
    ):
        given = dict(mean=mean, std=std, second_mean=second_mean, second_std=second_std)
        lengths = {name: len(v) for name, v in given.items() if v is not None}
        for first, second in (('mean', 'std'), ('second_mean', 'second_std')):
            if lengths.get(first) != lengths.get(second):
                raise ConfigError(
                    f'{first} has {lengths.get(first, "no")} values and {second} has '
                    f'{lengths.get(second, "no")}: expected one for each channel'
                )
        if 'second_mean' not in lengths:
            raise ConfigError(
                'second_mean and second_std are missing: expected the mean and the '
                "standard deviation of the teacher's view"
            )
        channels = lengths.get('mean', 1)
        if to_rgb and channels not in (1, 3):
            raise ConfigError(
                f'to_rgb=True, but mean has {channels} values: only images of three '
                'channels can be in the order blue, green, red. Set to_rgb=False'
            )
        if teacher_bands is not None:
            teacher_bands = list(teacher_bands)
            if lengths['second_mean'] not in (1, len(teacher_bands)):
                raise ConfigError(
                    f'teacher_bands={teacher_bands}, but second_mean has '
                    f'{lengths["second_mean"]} values: expected {len(teacher_bands)}'
                )
            if channels > 1:
                self._check_bands(teacher_bands, channels)
        # mmpretrain refuses other numbers of channels than 1 and 3.
        super().__init__(
            **{name: None if v is None else [1.0] for name, v in given.items()},
            to_rgb=to_rgb,
            non_blocking=non_blocking,
        )
        for name, values in given.items():
            if values is not None:
                setattr(self, name, torch.tensor(values).view(-1, 1, 1))
        self.teacher_bands = teacher_bands
        if teacher_bands is not None:
            self.register_buffer(
                '_teacher_bands', torch.tensor(teacher_bands), persistent=False
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalize a batch.

        Args:
            data (dict): A batch of the data loader. Its ``inputs`` are either
                one batch of images [B, C, H, W], or two, the student's and the
                teacher's.
            training (bool): Not used. Defaults to False.

        Returns:
            dict: ``inputs`` is a list of the student's view, [B, C, H, W], and the
            teacher's view, whose channels are ``teacher_bands``; ``data_samples`` are
            those of the batch. If all masks hide the same number of patches, each
            sample has the indices of its ``hidden`` and ``visible`` patches, int64,
            made on the CPU.

        Raises:
            ConfigError: If the images have another number of channels than the means.
        """
        data = self.cast_data(data)
        inputs, samples = data['inputs'], data['data_samples']
        # A batch of single pictures is moved to the device once and is used twice.
        views = [inputs] * 2 if isinstance(inputs, Tensor) else inputs
        student, teacher = map(self._in_order, views)
        if self.teacher_bands is not None:
            self._check_bands(self.teacher_bands, teacher.shape[1])
            teacher = teacher.index_select(1, self._teacher_bands)
        student, teacher = student.float(), teacher.float()
        if self._enable_normalize:
            _check_channels(student, self.mean, 'mean')
            _check_channels(teacher, self.second_mean, 'second_mean')
            student = (student - self.mean) / self.std
            teacher = (teacher - self.second_mean) / self.second_std
        return dict(inputs=[student, teacher], data_samples=samples)

    def cast_data(self, data: CastData) -> CastData:
        """Copy data to the device, with the indices of its masks if it is a batch.

        Args:
            data (CastData): See mmengine's ``BaseDataPreprocessor``. A dict with
                ``data_samples`` is a batch.

        Returns:
            CastData: The data. The data samples of a batch have the indices of their
            ``hidden`` and ``visible`` patches, which can only be made on the CPU
            without waiting for the device.
        """
        index = None
        if isinstance(data, Mapping) and 'data_samples' in data:
            index = _index(data['data_samples'])
        data = super().cast_data(data)
        if index is not None:
            # One copy to the device for both.
            order = super().cast_data(torch.cat(index, 1))
            parts = order.tensor_split([index.hidden.shape[1]], 1)
            for sample, hidden, visible in zip(data['data_samples'], *parts):
                sample.set_field(hidden, 'hidden', Tensor)
                sample.set_field(visible, 'visible', Tensor)
        return data

    def _in_order(self, images: Tensor) -> Tensor:
        """Turn BGR images into RGB images, if the config says so."""
        if not self._channel_conversion or images.shape[1] == 1:
            return images
        if images.shape[1] != 3:
            raise ConfigError(
                f'to_rgb=True, but the images have {images.shape[1]} channels: set '
                'to_rgb=False'
            )
        # Indexing by a list would copy it to the device, and the host would wait.
        return images.flip(1)

    @staticmethod
    def _check_bands(bands: list[int], channels: int):
        if not all(0 <= band < channels for band in bands):
            raise ConfigError(
                f'teacher_bands={bands}: the images have {channels} channels, expected '
                f'numbers from 0 to {channels - 1}'
            )


def _check_channels(images: Tensor, mean: Tensor, name: str):
    if len(mean) not in (1, images.shape[1]):
        advice = ' (or teacher_bands)' if name == 'second_mean' else ''
        raise ConfigError(
            f'the images have {images.shape[1]} channels, {name} has {len(mean)} '
            f'values: expected one for each channel{advice}'
        )


def _index(data_samples: list[DataSample]) -> PatchIndex | None:
    """Make indices of the samples' masks, if they are on the CPU and allow it."""
    masks = [sample.get('mask') for sample in data_samples or []]
    if not masks or any(mask is None or mask.device.type != 'cpu' for mask in masks):
        return None
    if len({mask.shape for mask in masks}) != 1:
        return None
    return index_patches(torch.stack(masks).flatten(1).bool())
