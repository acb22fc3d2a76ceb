import math

import torch
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import Block, PatchIndex, select
from .mask_distill_vit import MaskDistillViT, _parse_arch


@MODELS.register_module()
class PatchAggregationViT(MaskDistillViT):
    """BEiT v2's student, whose class token learns to represent the whole image.

    With a mask, ``forward`` returns two readouts, and the head predicts from each: the
    tokens of the hidden patches after the last block, and the tokens of the hidden
    patches after additional shallow blocks. The shallow blocks take the class token of
    the last block and the patch tokens of an early block, so only the class token can
    tell them what the later blocks computed (arXiv 2208.06366, section 2.3).

    The shallow blocks are named ``cls_pt_layers`` as in BEiT v2's checkpoints.
    Downstream tasks do not use them.

    Args:
        early_layers (int): Number of blocks before the patch tokens branch off to the
            shallow blocks. Defaults to 9.
        num_aggregation_layers (int): Number of shallow blocks. Defaults to 2.
        arch (str | dict): See :class:`MaskDistillViT`. Defaults to ``'base'``.
        drop_path_rate (float): See :class:`MaskDistillViT`. The shallow blocks have the
            rates of the blocks that follow the early ones. Defaults to 0.
        layer_scale_init_value (float): See :class:`MaskDistillViT`. Defaults to 0.1.
        **kwargs: Further arguments of :class:`MaskDistillViT`.

    Raises:
        ConfigError: If ``early_layers`` is not at least 1 and less than the number of
            blocks. See also :class:`MaskDistillViT`.
    """

    def __init__(
        self,
        early_layers: int = 9,
        num_aggregation_layers: int = 2,
        arch: str | dict = 'base',
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
                f'{self.num_layers - 1}, less than the number of blocks'
            )
        self.early_layers = early_layers
        arch = _parse_arch(arch)
        end = early_layers + num_aggregation_layers
        rates = torch.linspace(0, drop_path_rate, max(self.num_layers, end))
        self.aggregation_rates = rates[early_layers:end].tolist()
        self.cls_pt_layers = nn.ModuleList(
            Block(
                self.embed_dims,
                arch['num_heads'],
                arch['feedforward_channels'],
                layer_scale_init_value,
                self.grid if kwargs.get('use_rel_pos_bias') else None,
                self.attention,
            )
            for _ in range(num_aggregation_layers)
        )

    def _forward_masked(
        self, x: Tensor, mask: Tensor, index: PatchIndex | None
    ) -> tuple[Tensor, Tensor]:
        """Compute both readouts of the hidden patches, [mask.sum(), D] each."""
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        draws = self._draw_drop_path(
            [*self.blocks, *self.cls_pt_layers],
            [*self.drop_path_rates, *self.aggregation_rates],
            tokens,
        )
        for i, block in enumerate(self.blocks):
            if i == self.early_layers:
                early = tokens
            tokens = self._run(block, tokens, grid, bias, None, draws[i])
        aggregated = torch.cat([tokens[:, :1], early[:, 1:]], 1)  # [B, 1+N, D]
        for block, draw in zip(self.cls_pt_layers, draws[self.num_layers :]):
            aggregated = self._run(block, aggregated, grid, bias, None, draw)
        hidden = mask if index is None else index.hidden
        return tuple(
            self.norm(select(output[:, 1:], hidden)) for output in (tokens, aggregated)
        )

    def _draw_weights(self, std: float = 0.02):
        super()._draw_weights(std)
        start = self.early_layers + 1
        with torch.no_grad():
            for i, block in enumerate(self.cls_pt_layers, start):
                block.attn.proj.weight /= math.sqrt(2 * i)
                block.mlp.fc2.weight /= math.sqrt(2 * i)
