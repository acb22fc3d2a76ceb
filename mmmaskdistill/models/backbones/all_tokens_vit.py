from torch import Tensor

from mmmaskdistill.registry import MODELS

from ..layers import PatchIndex, select
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

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        index: PatchIndex | None = None,
        where: Tensor | None = None,
    ) -> tuple[Tensor, ...] | Tensor:
        """Compute features as a backbone, or with a mask as the student.

        Args:
            x (Tensor): Images [B, C, H, W].
            mask (Tensor, optional): Hidden patches, [B, N] bool, True = hidden.
                Defaults to None: the model is a backbone.
            index (PatchIndex, optional): The mask as indices. Defaults to None.
            where (Tensor, optional): Indices [B, M] int64 of the tokens to return.
                They count from the class token, if it is returned. The last block
                computes only these tokens. Defaults to None: all tokens.

        Returns:
            tuple[Tensor, ...] | Tensor: Without a mask, as
            :meth:`MaskDistillViT.forward`. With a mask, the tokens after the final
            norm, [B, N, D] or [B, 1+N, D]; with ``where``, [B*M, D].
        """
        if mask is None:
            return super().forward(x)
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        *draws, last = self._draw_drop_path(self.blocks, self.drop_path_rates, tokens)
        for block, draw in zip(self.blocks, draws):
            tokens = self._run(block, tokens, grid, bias, None, draw)
        first = 0 if self.class_token else 1
        queries = None if where is None else where + first
        tokens = self._run(self.blocks[-1], tokens, grid, bias, queries, last)
        if where is not None:
            return self.norm(select(tokens, None))
        return self.norm(tokens[:, first:])
