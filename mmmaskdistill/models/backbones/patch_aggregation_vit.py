import math

import torch
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import Block
from .mask_distill_vit import MaskDistillViT, _parse_arch


@MODELS.register_module()
class PatchAggregationViT(MaskDistillViT):
    """S of BEiT v2, which presses the image into the class token.

    Two readouts are predicted from: the hidden patches' tokens, and those that
    shallow blocks make of the last block's class token and an early block's
    patches (arXiv 2208.06366, section 2.3). These blocks are named
    ``cls_pt_layers`` as in BEiT v2's checkpoints, and left behind afterwards.

    Args:
        early_layers (int): Blocks before the patches branch off. Defaults to
            9, of 12.
        num_aggregation_layers (int): Shallow blocks. Defaults to 2.
        **kwargs: Of :class:`MaskDistillViT`.

    Raises:
        ConfigError: If there are not so many blocks.
    """

    def __init__(
        self,
        early_layers: int = 9,
        num_aggregation_layers: int = 2,
        arch='base',
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.1,
        **kwargs,
    ):
        super().__init__(
            arch,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            **kwargs,
        )
        if not 0 < early_layers < self.num_layers:
            raise ConfigError(
                f'early_layers={early_layers}: expected 1 to '
                f'{self.num_layers - 1}, less than the blocks'
            )
        self.early_layers = early_layers
        arch = _parse_arch(arch)
        end = early_layers + num_aggregation_layers
        rates = torch.linspace(0, drop_path_rate, max(self.num_layers, end))
        self.cls_pt_layers = nn.ModuleList(
            Block(
                self.embed_dims,
                arch['num_heads'],
                arch['feedforward_channels'],
                rate,
                layer_scale_init_value,
                self.patch_resolution if kwargs.get('use_rel_pos_bias') else None,
            )
            for rate in rates[early_layers:end].tolist()
        )

    def _forward_masked(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        for i, block in enumerate(self.blocks):
            if i == self.early_layers:
                early = tokens
            tokens = self._run(block, tokens, grid, bias)
        pressed = torch.cat([tokens[:, :1], early[:, 1:]], 1)
        for block in self.cls_pt_layers:
            pressed = self._run(block, pressed, grid, bias)
        return self.norm(tokens[:, 1:][mask]), self.norm(pressed[:, 1:][mask])

    def _draw_weights(self, std: float = 0.02):
        super()._draw_weights(std)
        start = self.early_layers + 1
        with torch.no_grad():
            for i, block in enumerate(self.cls_pt_layers, start):
                block.attn.proj.weight /= math.sqrt(2 * i)
                block.mlp.fc2.weight /= math.sqrt(2 * i)
