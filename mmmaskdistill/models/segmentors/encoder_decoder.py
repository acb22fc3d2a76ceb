"""mmseg's segmentor with less memory for losses and faster sliding windows."""

import math
from collections.abc import Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder as MMSegEncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..checkpoints import init_model
from .windows import compute_windows, free_memory, place_windows


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """mmseg's ``EncoderDecoder`` with cheaper losses and sliding windows.

    The backward pass computes the logits at the resolution of the labels a
    second time; they are not kept in memory. In sliding-window inference, the
    logits of a window are added to its part of the image; mmseg pads them to
    the size of the image first. Windows are computed in batches. Losses and logits
    are the same as mmseg's, and so are the arguments, except for one more key of
    ``test_cfg``.

    ``test_cfg=dict(mode='slide', window_batch=...)`` is the number of windows in a
    batch. By default, it is one on the CPU, and as many as fit into half of the free
    memory on a GPU, see :func:`.windows.compute_windows`.

    Args:
        *args: Arguments of mmseg's ``EncoderDecoder``.
        **kwargs: Arguments of mmseg's ``EncoderDecoder``.

    Raises:
        ConfigError: If ``window_batch`` is no positive integer, or is set without
            ``mode='slide'``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        test_cfg = self.test_cfg or {}
        batch = test_cfg.get('window_batch')
        if batch is None:
            return
        if type(batch) is not int or batch < 1:
            raise ConfigError(
                f'test_cfg has window_batch={batch!r}: expected a number of windows, '
                'at least 1, or None to choose it by the free memory'
            )
        if test_cfg.get('mode', 'whole') != 'slide':
            raise ConfigError(
                f"test_cfg has window_batch={batch} but mode='whole': set mode='slide' "
                'with crop_size and stride, or remove window_batch'
            )

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
            Tensor: Logits [B, classes, H, W]. They are on the CPU if the inputs are on
            a GPU whose free memory is less than three times as large: one for the
            logits, one for their copy at the size of the image, one for the windows.
        """
        sizes = inputs.shape[2:]
        rows, columns = (
            place_windows(*numbers)
            for numbers in zip(sizes, self.test_cfg.crop_size, self.test_cfg.stride)
        )

        def compute(part: Sequence[tuple]) -> tuple[Tensor, ...]:
            crops = torch.cat([inputs[window] for window in part])
            batch_img_metas[0]['img_shape'] = crops.shape[2:]
            return self.encode_decode(crops, batch_img_metas).split(len(inputs))

        shape = (len(inputs), self.out_channels, *sizes)
        free, device = free_memory(inputs.device), inputs.device
        if free is not None and free < 3 * math.prod(shape) * inputs.element_size():
            device = torch.device('cpu')
        logits = inputs.new_zeros(shape, device=device)
        for window, out in compute_windows(
            [(..., y, x) for y in rows for x in columns],
            compute,
            inputs.device,
            self.test_cfg.get('window_batch'),
        ):
            logits[window] += out.to(device)
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


def _cover(windows: list[slice], like: Tensor) -> Tensor:
    """Count the windows that cover each pixel of a side."""
    counts = like.new_zeros(windows[-1].stop)
    for window in windows:
        counts[window] += 1
    return counts
