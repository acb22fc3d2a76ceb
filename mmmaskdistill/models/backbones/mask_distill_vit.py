import math
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, initialize
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import (
    Block,
    PatchEmbed,
    RelativePositionBias,
    find,
    resize_position_embedding,
)
from ..weights import adapt_to_vit, load_backbone

ARCHS = {
    name: dict(
        embed_dims=width,
        num_layers=depth,
        num_heads=heads,
        feedforward_channels=4 * width,
    )
    for name, depth, width, heads in [
        ('tiny', 12, 192, 3),
        ('small', 12, 384, 6),
        ('base', 12, 768, 12),
        ('large', 24, 1024, 16),
        ('huge', 32, 1280, 16),
    ]
}
OUT_TYPES = ('cls_token', 'avg_featmap', 'featmap', 'raw')


@MODELS.register_module()
class MaskDistillViT(BaseModule):
    """The ViT of the BEiT family: student in pre-training, backbone after it.

    Its parameters carry the names of the family's public checkpoints. Any
    image size is accepted: relative position tables and the position embedding
    are resized to the patch grid at hand.

    Args:
        arch (str | dict): ``tiny``, ``small``, ``base``, ``large``, ``huge``,
            or a dict with ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``. Defaults to ``'base'``.
        img_size (int | tuple[int, int]): Usual image height and width in
            pixels; it sets the window of the relative position tables.
            Defaults to 224.
        patch_size (int): Side of a patch in pixels. Defaults to 16.
        in_channels (int): Image channels. Defaults to 3.
        out_type (str): What ``forward(x)`` gives for each of ``out_indices``:

            - ``featmap``: patch tokens as a map, [B, D, h, w];
            - ``cls_token``: class token, [B, D];
            - ``avg_featmap``: LayerNorm (``fc_norm``) of the mean of the patch
              tokens, [B, D];
            - ``raw``: all tokens, [B, 1+N, D].

            Defaults to ``'featmap'``, what segmentors take.
        out_indices (int | Sequence[int]): Blocks whose output is returned;
            negative ones count from the end. Defaults to -1.
        drop_path_rate (float): Drop path of the last block; it grows linearly
            from 0 at the first. Defaults to 0.
        layer_scale_init_value (float): Start of layer scale, 0 for none.
            Defaults to 0.1.
        use_abs_pos_emb (bool): Learned absolute position embedding.
            Defaults to False.
        use_rel_pos_bias (bool): One relative position table a block, as
            downstream. Defaults to False.
        use_shared_rel_pos_bias (bool): One relative position table for all
            blocks, as in pre-training. Defaults to True.
        final_norm (bool): LayerNorm after the last block; taps before it are
            not normalized. Defaults to True.
        frozen_stages (int): Freeze the embedding and the first this many
            blocks, with all blocks everything; -1 freezes nothing. Defaults
            to -1.
        with_cp (bool): Recompute blocks in backward instead of keeping their
            activations. Defaults to False.
        pretrained (str, optional): Short for a ``Pretrained`` ``init_cfg``;
            mmseg's segmentors pass their own ``pretrained`` on to it. Not used
            beside an ``init_cfg``.
        init_cfg (dict | list[dict], optional):
            ``dict(type='Pretrained', checkpoint=...)`` loads a checkpoint
            after everything else, through
            :func:`mmmaskdistill.models.weights.load_backbone`, whose arguments
            it takes; without it the weights are drawn as BEiT draws them.

    Raises:
        ConfigError: If an argument is none of the above.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_type: str = 'featmap',
        out_indices: int | Sequence[int] = -1,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.1,
        use_abs_pos_emb: bool = False,
        use_rel_pos_bias: bool = False,
        use_shared_rel_pos_bias: bool = True,
        final_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
    ):
        if pretrained is not None and init_cfg is not None:
            print_log(
                f'pretrained={pretrained!r} is not used: init_cfg is given',
                logger='current',
            )
        elif pretrained is not None:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg=init_cfg)
        arch = _parse_arch(arch)
        self.embed_dims = arch['embed_dims']
        self.num_layers = arch['num_layers']
        num_heads = arch['num_heads']

        if out_type not in OUT_TYPES:
            raise ConfigError(
                f'out_type={out_type!r}: expected one of {", ".join(OUT_TYPES)}'
            )
        if not 0 <= drop_path_rate < 1:
            raise ConfigError(f'drop_path_rate={drop_path_rate}: expected 0 to below 1')
        self.out_type = out_type
        self.out_indices = _parse_indices(out_indices, self.num_layers)
        if not -1 <= frozen_stages <= self.num_layers:
            raise ConfigError(
                f'frozen_stages={frozen_stages}: expected -1 to '
                f'{self.num_layers}, the number of blocks'
            )
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.patch_size = patch_size
        self.patch_resolution = tuple(math.ceil(side / patch_size) for side in img_size)
        window = self.patch_resolution

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        # Without gradient until an algorithm that masks switches it on:
        # downstream no loss reaches it, which DistributedDataParallel refuses.
        self.mask_token = nn.Parameter(
            torch.zeros(1, 1, self.embed_dims), requires_grad=False
        )
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1 + window[0] * window[1], self.embed_dims))
            if use_abs_pos_emb
            else None
        )
        self.rel_pos_bias = (
            RelativePositionBias(window, num_heads) if use_shared_rel_pos_bias else None
        )
        rates = torch.linspace(0, drop_path_rate, self.num_layers).tolist()
        self.blocks = nn.ModuleList(
            Block(
                self.embed_dims,
                num_heads,
                arch['feedforward_channels'],
                rate,
                layer_scale_init_value,
                window if use_rel_pos_bias else None,
            )
            for rate in rates
        )
        self.norm = (
            nn.LayerNorm(self.embed_dims, eps=1e-6) if final_norm else nn.Identity()
        )
        if out_type == 'avg_featmap':
            self.fc_norm = nn.LayerNorm(self.embed_dims, eps=1e-6)

        self._reported = []
        self.register_load_state_dict_pre_hook(_adapt_before_loading)
        self._freeze()

    def forward(self, x: Tensor, mask: Tensor | None = None):
        """Backbone without a mask, student with one.

        Args:
            x (Tensor): Images [B, 3, H, W].
            mask (Tensor, optional): [B, N] bool, True = hidden.

        Returns:
            tuple[Tensor] | Tensor: Without a mask, one output a tap, see
            ``out_type``. With a mask the hidden patches' tokens after the
            final norm, [mask.sum(), D], batch-major.
        """
        if mask is not None:
            return self._forward_masked(x, mask)
        tokens, grid = self._embed(x)
        bias = self._shared_bias(grid)
        outs = []
        for i, block in enumerate(self.blocks[: max(self.out_indices) + 1]):
            tokens = self._run(block, tokens, grid, bias)
            if i == self.num_layers - 1:
                tokens = self.norm(tokens)
            if i in self.out_indices:
                outs.append(self._format(tokens, grid))
        return tuple(outs)

    def _forward_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """S(x, m)[m], the student of arXiv 2210.10615, section 3.

        The last block computes the hidden tokens alone, since nothing reads
        the others.
        """
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        for block in self.blocks[:-1]:
            tokens = self._run(block, tokens, grid, bias)
        hidden, real = find(mask)
        tokens = self._run(self.blocks[-1], tokens, grid, bias, hidden + 1)
        return self.norm(tokens[real])

    def _embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple]:
        """Tokens [B, 1+N, D] and the patch grid."""
        x, grid = self.patch_embed(x)
        if mask is not None:
            if mask.shape != x.shape[:2]:
                raise ConfigError(
                    f'mask of shape {tuple(mask.shape)}: expected '
                    f'{tuple(x.shape[:2])}, one value for each of the '
                    f'{grid[0]} x {grid[1]} patches of {len(x)} images'
                )
            x = torch.where(mask[..., None], self.mask_token, x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        if self.pos_embed is not None:
            x = x + resize_position_embedding(
                self.pos_embed, self.patch_resolution, grid
            )
        return x, grid

    def _shared_bias(self, grid: tuple[int, int]) -> Tensor | None:
        return None if self.rel_pos_bias is None else self.rel_pos_bias(grid)

    def _run(self, block: Block, *args) -> Tensor:
        if self.with_cp and self.training:
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def _format(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return tokens
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        if self.out_type == 'featmap':
            return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
        return self.fc_norm(tokens[:, 1:].mean(1))

    def init_weights(self):
        """Draw the weights as BEiT does, then load ``init_cfg``'s, if any."""
        self._draw_weights()
        cfgs = self.init_cfg or []
        cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
        kinds = ('Pretrained', PretrainedInit)
        loads = [cfg for cfg in cfgs if cfg['type'] in kinds]
        initialize(self, [cfg for cfg in cfgs if cfg not in loads])
        for cfg in loads:
            load_backbone(self, **{k: v for k, v in cfg.items() if k != 'type'})
        self._is_init = True

    @torch.no_grad()
    def _draw_weights(self, std: float = 0.02):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                trunc_normal_(module.weight, std=std, a=-std, b=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.mask_token, self.pos_embed):
            if token is not None:
                trunc_normal_(token, std=std, a=-std, b=std)
        for i, block in enumerate(self.blocks, start=1):
            block.attn.proj.weight /= math.sqrt(2 * i)
            block.mlp.fc2.weight /= math.sqrt(2 * i)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Args:
            param_name (str): Name of a parameter of the whole model.
            prefix (str): Prefix of the backbone's parameters in it.

        Returns:
            tuple[int, int]: The depth, and the number of depths, two more than
            blocks: tokens, position and patch embedding are at 0, block i
            (from 0) is at i + 1, everything above at the last one.
        """
        num_depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if param_name.startswith(prefix):
            if name in ('cls_token', 'mask_token', 'pos_embed') or name.startswith(
                'patch_embed.'
            ):
                return 0, num_depths
            if name.startswith('blocks.'):
                return int(name.split('.')[1]) + 1, num_depths
        return num_depths - 1, num_depths

    def train(self, mode: bool = True):
        """Set the mode; frozen blocks stay in eval mode, without drop path."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self):
        if self.frozen_stages < 0:
            return
        # A shared bias reaches every block: it rests only with all of them.
        frozen = (
            self.children()
            if self.frozen_stages == self.num_layers
            else [self.patch_embed, *self.blocks[: self.frozen_stages]]
        )
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        for token in (self.cls_token, self.pos_embed):
            if token is not None:
                token.requires_grad_(False)


def _parse_arch(arch: str | dict) -> dict:
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ConfigError(
                f'arch={arch!r}: expected one of {", ".join(ARCHS)}, or a dict'
            )
        return ARCHS[arch]
    if set(arch) != set(ARCHS['base']):
        raise ConfigError(
            f'arch has the keys {sorted(arch)}: expected {sorted(ARCHS["base"])}'
        )
    return arch


def _parse_indices(indices: int | Sequence[int], depth: int) -> list:
    indices = [indices] if isinstance(indices, int) else list(indices)
    for index in indices:
        if not -depth <= index < depth:
            raise ConfigError(
                f'out_indices={indices}: {index} is none of the '
                f'{depth} blocks, expected {-depth} to '
                f'{depth - 1}'
            )
    return sorted(index % depth for index in indices)


def _adapt_before_loading(vit: MaskDistillViT, state: dict, prefix: str, *args):
    """Let ``load_from`` and ``load_state_dict`` take what `init_cfg` takes."""
    own = {
        key[len(prefix) :]: state.pop(key)
        for key in list(state)
        if key.startswith(prefix)
    }
    adapted, notes = adapt_to_vit(own, vit)
    state.update({prefix + key: value for key, value in adapted.items()})
    # To check whether a checkpoint fits is to load it once more.
    if notes and notes != vit._reported:
        print_log(
            '\n  '.join(['backbone from a state dict:', *notes]), logger='current'
        )
        vit._reported = notes
