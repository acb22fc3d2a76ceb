"""The networks that are exported: tensors in, tensors out."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class ExportedNetwork(nn.Module):
    """A model whose ``forward`` takes normalized images and returns plain tensors.

    Images and results have 32 bits, whatever the precision of the model is.

    Args:
        model (nn.Module): mmseg's segmentor, mmpretrain's classifier, or a model with
            a ``backbone``.
        dtype (torch.dtype): Precision of the model. Defaults to ``torch.float32``.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            images (Tensor): Normalized images, [B, C, H, W] float32.

        Returns:
            Tensor | tuple[Tensor, ...]: The outputs, float32 or, for labels, int64.
        """
        if self.dtype != torch.float32:
            images = images.to(self.dtype)
        return self.compute(images)

    def compute(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the outputs from images of the model's precision."""
        raise NotImplementedError


class SegmentationLogits(ExportedNetwork):
    """Computes the logits [B, C, H, W] of each pixel, of one window, without padding.

    C is 1 for mmseg's binary heads.
    """

    def compute(self, images: Tensor) -> Tensor:
        """Compute the logits, see :class:`ExportedNetwork`."""
        shape = images.shape[2:]
        metas = [dict(img_shape=shape, ori_shape=shape, pad_shape=shape)]
        return self.model.encode_decode(images, metas).float()


class SegmentationLabels(SegmentationLogits):
    """Computes the class of each pixel, [B, H, W] int64."""

    def compute(self, images: Tensor) -> Tensor:
        """Compute the labels, see :class:`ExportedNetwork`."""
        logits = super().compute(images)
        if logits.shape[1] > 1:
            return logits.argmax(1)
        # The only channel is that of the second class.
        return (logits[:, 0].sigmoid() > threshold_of(self.model)).long()


class ClassificationLogits(ExportedNetwork):
    """Computes the logits [B, C] of the classes of each image."""

    def compute(self, images: Tensor) -> Tensor:
        """Compute the logits, see :class:`ExportedNetwork`."""
        return self.model.head(self.model.extract_feat(images)).float()


class BackboneFeatures(ExportedNetwork):
    """Computes what the backbone returns, one tensor after another."""

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the features, see :class:`ExportedNetwork`."""
        outputs = self.model.backbone(images)
        return tuple(tensor.float() for tensor in _tensors(outputs))


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples and lists."""
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for output in outputs:
            yield from _tensors(output)


def threshold_of(segmentor: nn.Module) -> float:
    """Return the probability above which a binary head predicts the second class.

    Args:
        segmentor (nn.Module): mmseg's segmentor.
    """
    head = segmentor.decode_head
    return (head[-1] if isinstance(head, nn.ModuleList) else head).threshold


NETWORKS = {
    ('segmentation', 'labels'): SegmentationLabels,
    ('segmentation', 'logits'): SegmentationLogits,
    ('classification', 'logits'): ClassificationLogits,
    ('segmentation', 'features'): BackboneFeatures,
    ('classification', 'features'): BackboneFeatures,
    ('pretraining', 'features'): BackboneFeatures,
}
DEFAULT_OUTPUTS = dict(
    segmentation='labels', classification='logits', pretraining='features'
)
