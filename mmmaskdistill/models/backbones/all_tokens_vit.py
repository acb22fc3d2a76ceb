from torch import Tensor

from mmmaskdistill.registry import MODELS
from .mask_distill_vit import MaskDistillViT


@MODELS.register_module()
class AllTokensViT(MaskDistillViT):
    """S for losses on visible or on all patches, masked or not.

    A :class:`MaskDistillViT`, of whose checkpoints' keys it has all; with a
    mask ``forward`` gives every patch's token after the final norm, [B, N, D].
    """

    gives = 'all'

    def _forward_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        for block in self.blocks:
            tokens = self._run(block, tokens, grid, bias)
        return self.norm(tokens[:, 1:])
