from collections.abc import Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder as MMSegEncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """mmseg's ``EncoderDecoder`` with leaner losses and sliding windows.

    Backward computes the logits at the labels' resolution again, instead of
    keeping them. Each window's logits are added where they belong, not padded
    to the image's size first, and a GPU computes all windows of a batch at
    once. Losses and logits are mmseg's.
    """

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
        """Mean of the logits of overlapping windows.

        Args:
            inputs (Tensor): Images [B, 3, H, W].
            batch_img_metas (list[dict]): Their meta information.

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
    """A head's losses, resized logits and their softmax not kept."""
    if type(head).loss is not BaseDecodeHead.loss:
        return head.loss(inputs, data_samples, train_cfg)
    return checkpoint(
        head.loss_by_feat, head(inputs), data_samples, use_reentrant=False
    )


def _windows(size: int, crop: int, stride: int) -> list[slice]:
    """Windows of a side, the last one moved back to the border."""
    number = max(size - crop + stride - 1, 0) // stride + 1
    ends = (min(k * stride + crop, size) for k in range(number))
    return [slice(max(end - crop, 0), end) for end in ends]


def _cover(windows: list[slice], like: Tensor) -> Tensor:
    """How many windows cover each pixel of a side."""
    counts = like.new_zeros(windows[-1].stop)
    for window in windows:
        counts[window] += 1
    return counts
