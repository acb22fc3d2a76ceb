"""Decoder heads, which predict all patches from the visible ones."""

from mmpretrain.models.necks import MAEPretrainDecoder, MILANPretrainDecoder
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from .base import Head


class _DecodesVisible:
    """Arguments and initial weights that the two decoder heads have in common.

    It is a mixin for a decoder of mmpretrain. The arguments are those of
    :class:`DecoderHead`.
    """

    decodes_visible = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: int | tuple[int, int] = 14,
        embed_dims: int = 512,
        num_layers: int = 8,
        num_heads: int = 16,
    ):
        side = grid if isinstance(grid, int) else grid[0]
        if not isinstance(grid, int) and grid[0] != grid[1]:
            raise ConfigError(
                f'grid={grid}: expected a square, because the position embedding '
                'of the decoder supports square patch grids only'
            )
        super().__init__(
            num_patches=side**2,
            embed_dim=in_channels,
            decoder_embed_dim=embed_dims,
            decoder_depth=num_layers,
            decoder_num_heads=num_heads,
            predict_feature_dim=out_channels,
        )
        self.grid = (side, side)
        self.in_features, self.out_features = in_channels, out_channels

    def init_weights(self) -> None:
        """Initialize the decoder as MAE does.

        The linear layers get Xavier's initialization, the position embedding is
        a fixed one of sines and cosines.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        super().init_weights()


def visible_first(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order the patches of each image so that the visible ones come first.

    Args:
        mask (Tensor): The mask m, [B, N] bool, True = hidden.

    Returns:
        tuple[Tensor, Tensor]: ``order`` [B, N], the index of the patch at each
        position of the new order, and ``place`` [B, N], the position of each
        patch in the new order. Visible patches and hidden patches keep their
        order among themselves.
    """
    order = mask.byte().argsort(dim=1, stable=True)
    return order, order.argsort(dim=1)


@MODELS.register_module()
class DecoderHead(_DecodesVisible, MAEPretrainDecoder, Head):
    """MAE's Transformer decoder as head H. It adds the mask tokens itself.

    This is mmpretrain's ``MAEPretrainDecoder`` for any mask and any target
    (arXiv 2111.06377, section 3).

    Args:
        in_channels (int): Width Ds of the student's tokens.
        out_channels (int): Channels Dt of the teacher's features.
        grid (int | tuple[int, int]): Patch grid (h, w), which must be a
            square. Defaults to 14.
        embed_dims (int): Width of the decoder's tokens. Defaults to 512.
        num_layers (int): Number of the decoder's blocks. Defaults to 8.
        num_heads (int): Number of its attention heads. Defaults to 16.

    Raises:
        ConfigError: If the patch grid is not a square.
    """

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predict the features of all patches.

        Args:
            tokens (Tensor): The student's tokens [B, 1+V, Ds]: the class token
                and the V visible patches of each image, in row-major order.
            mask (Tensor): The mask m, [B, N] bool, True = hidden.

        Returns:
            Tensor: Predictions [B, N, Dt].
        """
        return super().forward(tokens, visible_first(mask)[1])


@MODELS.register_module()
class PromptDecoderHead(_DecodesVisible, MILANPretrainDecoder, Head):
    """MILAN's decoder as head H. It does not update the visible tokens.

    This is mmpretrain's ``MILANPretrainDecoder`` for any mask and any target
    (arXiv 2208.06049, section 3.3): the mask tokens attend to all tokens, and
    only the mask tokens are updated.

    Args:
        *args: Arguments of :class:`DecoderHead`.
        class_token (bool): Whether to predict the teacher's class token, too,
            from that of the student. Defaults to False.
        **kwargs: Arguments of :class:`DecoderHead`.

    Raises:
        ConfigError: If the patch grid is not a square.
    """

    def __init__(self, *args, class_token: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_token = class_token

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predict the features of all patches.

        Args:
            tokens (Tensor): The student's tokens [B, 1+V, Ds]: the class token
                and the V visible patches of each image, in row-major order.
            mask (Tensor): The mask m, [B, N] bool, True = hidden.

        Returns:
            Tensor: Predictions [B, N, Dt]; with ``class_token`` [B, 1+N, Dt],
            the class token first.
        """
        order, place = visible_first(mask)
        visible = tokens.shape[1] - 1
        out = super().forward(tokens, place, order[:, :visible], order[:, visible:])
        return out if self.class_token else out[:, 1:]
