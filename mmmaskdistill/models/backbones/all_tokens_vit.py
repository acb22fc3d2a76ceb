from torch import Tensor

from mmmaskdistill.registry import MODELS

from ..layers import PatchIndex
from .mask_distill_vit import MaskDistillViT


@MODELS.register_module()
class AllTokensViT(MaskDistillViT):
    """Student that returns the tokens of all patches, hidden and visible ones.

    It serves losses that count visible patches or all patches. It is a
    :class:`MaskDistillViT` with the same checkpoint keys. With a mask, ``forward``
    returns the tokens of all patches after the final norm, [B, N, D]; without one, it
    is the same backbone.

    Args:
        *args: Positional arguments of :class:`MaskDistillViT`.
        class_token (bool): Whether the returned tokens begin with the class token,
            [B, 1+N, D]. Defaults to False.
        **kwargs: Keyword arguments of :class:`MaskDistillViT`.
    """

    tokens = 'all'

    def __init__(self, *args, class_token: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_token = class_token

    def _forward_masked(
        self, x: Tensor, mask: Tensor, index: PatchIndex | None
    ) -> Tensor:
        """Compute the tokens of all patches, [B, N, D] or [B, 1+N, D]."""
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        draws = self._draw_drop_path(self.blocks, self.drop_path_rates, tokens)
        for block, draw in zip(self.blocks, draws):
            tokens = self._run(block, tokens, grid, bias, None, draw)
        return self.norm(tokens if self.class_token else tokens[:, 1:])
