import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import resize_position_embedding
from .mask_distill_vit import MaskDistillViT


@MODELS.register_module()
class VisibleViT(MaskDistillViT):
    """S on visible patches alone, MAE's way (arXiv 2111.06377, section 3).

    A :class:`MaskDistillViT` without mask token, which a decoder head brings
    in, and with MAE's fixed sine-cosine position embedding and its initial
    weights; with a mask ``forward`` gives the class token and the visible
    patches after the final norm, [B, 1+V, D], in row-major order.

    Without a mask it is the backbone it inherits from. Its checkpoints load
    into ``MaskDistillViT(use_abs_pos_emb=True, use_shared_rel_pos_bias=False,
    layer_scale_init_value=0)``.

    Args:
        **kwargs: Of :class:`MaskDistillViT`; ``layer_scale_init_value`` is 0
            unless given.

    Raises:
        ConfigError: If a relative position bias is asked for, or the patch
            grid is not a square.
    """

    gives = 'visible'

    def __init__(self, layer_scale_init_value: float = 0.0, **kwargs):
        if kwargs.get('use_rel_pos_bias') or kwargs.get('use_shared_rel_pos_bias'):
            raise ConfigError(
                'use_rel_pos_bias and use_shared_rel_pos_bias do not go with '
                'VisibleViT: leave them out, or take MaskDistillViT'
            )
        super().__init__(
            layer_scale_init_value=layer_scale_init_value,
            **{**kwargs, 'use_abs_pos_emb': True, 'use_shared_rel_pos_bias': False},
        )
        rows, columns = self.patch_resolution
        if rows != columns:
            raise ConfigError(
                f'img_size gives {rows} x {columns} patches: '
                'the position embedding is one of squares'
            )
        self.mask_token = None
        self.pos_embed.requires_grad_(False)

    def _forward_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        patches, grid = self.patch_embed(x)
        visible = ~mask
        counts = visible.sum(1).tolist()
        if len(set(counts)) > 1:
            raise ConfigError(
                f'the images of a batch have {min(counts)} to {max(counts)} '
                'visible patches: VisibleViT needs masks with the same number '
                'in every image'
            )
        position = resize_position_embedding(
            self.pos_embed, self.patch_resolution, grid
        )
        patches = (patches + position[:, 1:])[visible]
        cls_token = (self.cls_token + position[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat(
            [cls_token.to(patches.dtype), patches.unflatten(0, (len(x), -1))], 1
        )
        for block in self.blocks:
            tokens = self._run(block, tokens, grid, None)
        return self.norm(tokens)

    @torch.no_grad()
    def _draw_weights(self):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls_token, std=0.02)
        self.pos_embed.copy_(
            build_2d_sincos_position_embedding(
                self.patch_resolution[0], self.embed_dims, cls_token=True
            )
        )
