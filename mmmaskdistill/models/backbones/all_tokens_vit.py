from torch import Tensor

from mmmaskdistill.registry import MODELS

from .mask_distill_vit import MaskDistillViT


@MODELS.register_module()
class AllTokensViT(MaskDistillViT):
    """S for losses on visible or on all patches, masked or not.

    A :class:`MaskDistillViT`, of whose checkpoints' keys it has all; with a
    mask ``forward`` gives every patch's token after the final norm, [B, N, D].

    Args:
        class_token (bool): Give the class token before them, [B, 1+N, D].
            Defaults to False.
        **kwargs: Of :class:`MaskDistillViT`.
    """

    gives = 'all'

    def __init__(self, *args, class_token: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_token = class_token

    def _forward_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        for block in self.blocks:
            tokens = self._run(block, tokens, grid, bias)
        return self.norm(tokens if self.class_token else tokens[:, 1:])
