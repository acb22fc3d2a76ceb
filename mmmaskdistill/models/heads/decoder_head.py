from mmpretrain.models.necks import MAEPretrainDecoder, MILANPretrainDecoder
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


class _DecodesVisible:
    """What the two decoders share: arguments, weights, order of tokens."""

    #: Needs the visible tokens and the mask, gives all patches.
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
                f'grid={grid}: the decoder has a position embedding for squares only'
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

    def init_weights(self):
        """As MAE: Xavier; the position embedding is fixed."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        super().init_weights()


def visible_first(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order of patches with the visible ones first, and the way back.

    Args:
        mask (Tensor): [B, N] bool, True = hidden.

    Returns:
        tuple[Tensor, Tensor]: ``order`` [B, N], patch at each place, and
        ``place`` [B, N], place of each patch.
    """
    order = mask.byte().argsort(dim=1, stable=True)
    return order, order.argsort(dim=1)


@MODELS.register_module()
class DecoderHead(_DecodesVisible, MAEPretrainDecoder):
    """H: MAE's Transformer decoder, which brings the mask tokens in.

    mmpretrain's ``MAEPretrainDecoder`` for any mask and target (arXiv
    2111.06377, section 3).

    Args:
        in_channels (int): Width Ds of the student.
        out_channels (int): Width Dt of the teacher's features.
        grid (int | tuple[int, int]): Patch grid, a square. Defaults to 14.
        embed_dims (int): Width of the decoder. Defaults to 512.
        num_layers (int): Its blocks. Defaults to 8.
        num_heads (int): Its attention heads. Defaults to 16.
    """

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """All patches' predictions [B, N, Dt].

        Args:
            tokens (Tensor): [B, 1+V, Ds], the class token and the visible
                patches in row-major order.
            mask (Tensor): [B, N] bool, True = hidden.
        """
        return super().forward(tokens, visible_first(mask)[1])


@MODELS.register_module()
class PromptDecoderHead(_DecodesVisible, MILANPretrainDecoder):
    """H: MILAN's decoder, which leaves the visible tokens as they came.

    mmpretrain's ``MILANPretrainDecoder`` for any mask and target (arXiv
    2208.06049, section 3.3): mask tokens attend to all tokens, and only they
    are updated.

    Args:
        class_token (bool): Predict the class token, too, before the patches,
            from the student's. Defaults to False.
        **kwargs: As for :class:`DecoderHead`.
    """

    def __init__(self, *args, class_token: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_token = class_token

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """All patches' predictions, see :class:`DecoderHead`.

        [B, 1+N, Dt] with ``class_token``.
        """
        order, place = visible_first(mask)
        visible = tokens.shape[1] - 1
        out = super().forward(tokens, place, order[:, :visible], order[:, visible:])
        return out if self.class_token else out[:, 1:]
