"""The data preprocessor of masked distillation."""

import torch
from mmpretrain.models.utils import TwoNormDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.registry import MODELS

from ..layers import PatchIndex, index_patches


@MODELS.register_module()
class TwoViewDataPreprocessor(TwoNormDataPreprocessor):
    """Normalize each image once for the student and once for the teacher.

    This is mmpretrain's ``TwoNormDataPreprocessor`` for pipelines that pack
    either one or two pictures of each sample. If there is one picture, both
    views are made from it on the device; then the picture is interpolated,
    collated and transferred only once.

    Args:
        mean (Sequence[float]): Mean of the student's view for the channels R,
            G and B, in values of 0 to 255.
        std (Sequence[float]): Standard deviation of the student's view.
        second_mean (Sequence[float]): Mean of the teacher's view.
        second_std (Sequence[float]): Standard deviation of the teacher's view.
        to_rgb (bool): Whether to convert the images from BGR to RGB. Defaults
            to False.
        non_blocking (bool): Whether to go on without waiting for the transfer
            to the device. Defaults to False.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalize a batch.

        Args:
            data (dict): A batch of the data loader. Its ``inputs`` are either
                one batch of images [B, 3, H, W], or two, the student's and the
                teacher's.
            training (bool): Not used. Defaults to False.

        Returns:
            dict: ``inputs`` is a list of the student's view and the teacher's
            view, [B, 3, H, W] each; ``data_samples`` are those of the batch. If
            all masks hide the same number of patches, each sample has the indices
            of its ``hidden`` and ``visible`` patches, int64, made on the CPU.
        """
        index = _index(data['data_samples'])
        if isinstance(data['inputs'], Tensor):
            # The batch is moved to the device before it is put into the list
            # twice, because each entry of the list would be moved separately.
            data = dict(data, inputs=[self.cast_data(data['inputs'])] * 2)
        batch = super().forward(data, training)
        if index is not None:
            # One copy to the device for both.
            order = self.cast_data(torch.cat(index, 1))
            parts = order.tensor_split([index.hidden.shape[1]], 1)
            for sample, hidden, visible in zip(batch['data_samples'], *parts):
                sample.set_field(hidden, 'hidden', Tensor)
                sample.set_field(visible, 'visible', Tensor)
        return batch


def _index(data_samples: list[DataSample]) -> PatchIndex | None:
    """Make indices of the samples' masks, if they are on the CPU and allow it."""
    masks = [sample.get('mask') for sample in data_samples or []]
    if not masks or any(mask is None or mask.device.type != 'cpu' for mask in masks):
        return None
    if len({mask.shape for mask in masks}) != 1:
        return None
    return index_patches(torch.stack(masks).flatten(1).bool())
