"""Let traces and exports of Swin Transformers take batches of any size.

mmpretrain (1.2.0) and mmseg (1.2.2) put the windows of a feature map together by
``window_reverse``, which computes the size of the batch as a Python number. A trace or
an exported graph keeps this number and returns wrong features for every other batch,
without an error. Here the size of the batch is left to ``view``. The results are the
same.
"""

from torch import Tensor, nn


def join_windows(windows: Tensor, height: int, width: int, window_size: int) -> Tensor:
    """Put the windows of feature maps together.

    Args:
        windows (Tensor): Windows [B * n, window_size, window_size, C], the n windows of
            each map in row-major order.
        height (int): Height H of the maps, a multiple of the window size.
        width (int): Width W of the maps, likewise.
        window_size (int): Side of a window.

    Returns:
        Tensor: [B, H, W, C].
    """
    channels = windows.shape[3]
    rows, columns = height // window_size, width // window_size
    maps = windows.view(-1, rows, columns, window_size, window_size, channels)
    return maps.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def _window_reverse(
    attention: nn.Module, windows: Tensor, height: int, width: int
) -> Tensor:
    return join_windows(windows, height, width, attention.window_size)


def apply() -> None:
    """Replace ``window_reverse`` of mmpretrain's and mmseg's attention in windows."""
    # Importing the backbones needs the remedies for missing compiled ops.
    from mmpretrain.models.backbones import mixmim
    from mmpretrain.models.utils import attention
    from mmseg.models.backbones import swin

    attention.ShiftWindowMSA.window_reverse = staticmethod(join_windows)
    mixmim.MixMIMBlock.window_reverse = staticmethod(join_windows)
    swin.ShiftWindowMSA.window_reverse = _window_reverse
