"""mmseg's segmentor with less memory for losses and faster sliding windows."""

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder as MMSegEncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmmaskdistill.registry import MODELS

from ..checkpoints import init_model


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """mmseg's ``EncoderDecoder`` with cheaper losses and sliding windows.

    The backward pass computes the logits at the resolution of the labels a
    second time; they are not kept in memory. In sliding-window inference, the
    logits of a window are added to its part of the image; mmseg pads them to
    the size of the image first. A GPU computes all windows of a batch at once.
    Losses and logits are the same as mmseg's, and so are the arguments.
    """

    def init_weights(self) -> None:
        """Initialize the model, and load the checkpoints of its ``init_cfg``.

        Raises:
            CheckpointError: If a checkpoint cannot be read or does not fit.
        """
        init_model(self, super().init_weights)

    def _decode_head_forward_train(
        self, inputs: Sequence[Tensor], data_samples: list
    ) -> dict:
        losses = _loss(self.decode_head, inputs, data_samples, self.train_cfg)
        return add_prefix(losses, 'decode')

    def _auxiliary_head_forward_train(
        self, inputs: Sequence[Tensor], data_samples: list
    ) -> dict:
        heads = dict(aux=self.auxiliary_head)
        if isinstance(self.auxiliary_head, nn.ModuleList):
            heads = {f'aux_{i}': h for i, h in enumerate(self.auxiliary_head)}
        losses = {}
        for name, head in heads.items():
            loss = _loss(head, inputs, data_samples, self.train_cfg)
            losses.update(add_prefix(loss, name))
        return losses

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Compute the logits of overlapping windows, and average them.

        Args:
            inputs (Tensor): Images [B, 3, H, W].
            batch_img_metas (list[dict]): Meta information of each image. The
                ``img_shape`` of the first one is set to the window's size.

        Returns:
            Tensor: Logits [B, classes, H, W].
        """
        sizes = inputs.shape[2:]
        rows, columns = (
            _windows(*numbers)
            for numbers in zip(sizes, self.test_cfg.crop_size, self.test_cfg.stride)
        )
        windows = [(..., y, x) for y in rows for x in columns]
        at_once = len(windows) if inputs.is_cuda else 1
        logits = inputs.new_zeros(len(inputs), self.out_channels, *sizes)
        for i in range(0, len(windows), at_once):
            part = windows[i : i + at_once]
            crops = torch.cat([inputs[window] for window in part])
            batch_img_metas[0]['img_shape'] = crops.shape[2:]
            outs = self.encode_decode(crops, batch_img_metas)
            for window, out in zip(part, outs.split(len(inputs))):
                logits[window] += out
        return logits.div_(_cover(rows, logits)[:, None] * _cover(columns, logits))


def _loss(
    head: nn.Module, inputs: Sequence[Tensor], data_samples: list, train_cfg: dict
) -> dict:
    """Compute the losses of a head without keeping its resized logits.

    The backward pass computes the resized logits and their softmax again. A
    head with a ``loss`` method of its own computes its losses as usual.
    """
    if type(head).loss is not BaseDecodeHead.loss:
        return head.loss(inputs, data_samples, train_cfg)
    return checkpoint(
        head.loss_by_feat, head(inputs), data_samples, use_reentrant=False
    )


def _windows(size: int, crop: int, stride: int) -> list[slice]:
    """Place windows along a side; the last one ends at the border."""
    number = max(size - crop + stride - 1, 0) // stride + 1
    ends = (min(k * stride + crop, size) for k in range(number))
    return [slice(max(end - crop, 0), end) for end in ends]


def _cover(windows: list[slice], like: Tensor) -> Tensor:
    """Count the windows that cover each pixel of a side."""
    counts = like.new_zeros(windows[-1].stop)
    for window in windows:
        counts[window] += 1
    return counts
