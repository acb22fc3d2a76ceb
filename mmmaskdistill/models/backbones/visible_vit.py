import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import PatchIndex, find, resize_position_embedding, take
from .mask_distill_vit import MaskDistillViT


@MODELS.register_module()
class VisibleViT(MaskDistillViT):
    """MAE's student, which only sees the visible patches (arXiv 2111.06377, section 3).

    It is a :class:`MaskDistillViT` with MAE's fixed sine-cosine position embedding and
    MAE's initial weights. It has no mask token; a decoder head adds one later. With a
    mask, ``forward`` returns the class token and the tokens of the V visible patches
    after the final norm, [B, 1+V, D], the patches in row-major order.

    Without a mask, it is the same backbone as :class:`MaskDistillViT`. Its checkpoints
    load into ``MaskDistillViT(use_abs_pos_emb=True, use_shared_rel_pos_bias=False,
    layer_scale_init_value=0)``.

    Args:
        layer_scale_init_value (float): Initial value of layer scale; 0 means no layer
            scale. Defaults to 0.
        **kwargs: Further keyword arguments of :class:`MaskDistillViT`.
            ``use_abs_pos_emb`` is always True.

    Raises:
        ConfigError: If a relative position bias is asked for, or the patch grid is not
            square. See also :class:`MaskDistillViT`.
    """

    tokens = 'visible'

    def __init__(self, layer_scale_init_value: float = 0.0, **kwargs):
        if kwargs.get('use_rel_pos_bias') or kwargs.get('use_shared_rel_pos_bias'):
            raise ConfigError(
                'VisibleViT supports neither use_rel_pos_bias nor '
                'use_shared_rel_pos_bias: remove them, or use MaskDistillViT'
            )
        super().__init__(
            layer_scale_init_value=layer_scale_init_value,
            **{**kwargs, 'use_abs_pos_emb': True, 'use_shared_rel_pos_bias': False},
        )
        rows, columns = self.grid
        if rows != columns:
            raise ConfigError(
                f'img_size makes {rows} x {columns} patches, but the sine-cosine '
                'position embedding needs a square patch grid: set a square img_size'
            )
        self.mask_token = None
        self.pos_embed.requires_grad_(False)

    def _forward_masked(
        self, x: Tensor, mask: Tensor, index: PatchIndex | None
    ) -> Tensor:
        """Compute the class token and the visible patches' tokens, [B, 1+V, D]."""
        patches, grid = self.patch_embed(x)
        if index is None:
            visible, not_padding = find(~mask)
            if not not_padding.all():
                counts = not_padding.sum(1).tolist()
                raise ConfigError(
                    f'the images of a batch have {min(counts)} to {max(counts)} '
                    'visible patches: VisibleViT needs masks that leave the same '
                    'number of patches visible in every image'
                )
        else:
            visible = index.visible
        position = resize_position_embedding(self.pos_embed, self.grid, grid)
        patches = take(patches + position[:, 1:], visible)  # [B, V, D]
        cls_token = (self.cls_token + position[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat([cls_token.to(patches.dtype), patches], 1)
        draws = self._draw_drop_path(self.blocks, self.drop_path_rates, tokens)
        for block, draw in zip(self.blocks, draws):
            tokens = self._run(block, tokens, grid, None, None, draw)
        return self.norm(tokens)

    @torch.no_grad()
    def _draw_weights(self):
        """Draw the weights as MAE does and compute the fixed position embedding."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls_token, std=0.02)
        self.pos_embed.copy_(
            build_2d_sincos_position_embedding(
                self.grid[0], self.embed_dims, cls_token=True
            )
        )
