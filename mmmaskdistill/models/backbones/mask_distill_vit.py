import math
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import print_log
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..checkpoints import (
    ESSENTIAL,
    FitsCheckpoints,
    adapt_to_vit,
    apply_init_cfg,
    fit_before_loading,
    select_vit,
    shapes_of,
    vit_settings,
)
from ..layers import (
    ONLY_ON_CUDA,
    WAYS,
    Block,
    Draw,
    PatchEmbed,
    PatchIndex,
    RelativePositionBias,
    choose_way,
    draw_drop_path,
    find,
    gather_gradients,
    resize_position_embedding,
    select,
)
from ..layers.memory_saving import keeps_for_backward
from .student import Student

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
class MaskDistillViT(FitsCheckpoints, Student):
    """The ViT of the BEiT family: student in pre-training, backbone afterwards.

    Its parameters have the names of the family's public checkpoints. Images may have
    any size: relative position tables and the position embedding are resized to the
    patch grid of the images.

    Args:
        arch (str | dict): ``tiny``, ``small``, ``base``, ``large``, ``huge``, or a dict
            with the keys ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``. Defaults to ``'base'``.
        img_size (int | tuple[int, int]): Usual height and width of the images in
            pixels. The relative position tables and the position embedding are made
            for the patch grid of this size. Defaults to 224.
        patch_size (int): Side of a patch in pixels. Defaults to 16.
        in_channels (int): Number of image channels. Defaults to 3.
        out_type (str): What ``forward(x)`` returns for each block of ``out_indices``:

            - ``featmap``: the patch tokens as a feature map, [B, D, h, w];
            - ``cls_token``: the class token, [B, D];
            - ``avg_featmap``: a LayerNorm (``fc_norm``) of the mean of the patch
              tokens, [B, D];
            - ``raw``: all tokens, [B, 1+N, D].

            Defaults to ``'featmap'``, which segmentors need.
        out_indices (int | Sequence[int]): Blocks whose output is returned, counted from
            0; negative numbers count from the last block, -1. The outputs come in the
            order of the blocks. Blocks after the last of them are not computed, and
            their parameters are frozen. Defaults to -1.
        drop_path_rate (float): Drop path rate of the last block. The rate grows
            linearly with depth, from 0 at the first block. Defaults to 0.
        layer_scale_init_value (float): Initial value of layer scale; 0 means no layer
            scale. Defaults to 0.1.
        use_abs_pos_emb (bool): Whether to add a learned absolute position embedding.
            Defaults to False.
        use_rel_pos_bias (bool): Whether each block has its own relative position
            table, as in downstream tasks. Defaults to False.
        use_shared_rel_pos_bias (bool): Whether all blocks share one relative position
            table, as in pre-training. Defaults to True.
        final_norm (bool): Whether to apply a LayerNorm after the last block. The
            outputs of earlier blocks are never normalized. Defaults to True.
        frozen_stages (int): Number of blocks to freeze, counted from the first. The
            patch embedding, the class token and the position embedding are frozen with
            them, and also if the number is 0. If all blocks are frozen, so are the
            shared relative position table and the norms. -1 freezes nothing. Defaults
            to -1.
        with_cp (bool): Whether the backward pass computes the activations of each block
            again instead of keeping them. Defaults to False.
        output_cls_token (bool): Whether each output is a pair of the feature map and
            the class token [B, D], as mmseg's ``DPTHead`` needs. Only for
            ``out_type='featmap'``. Defaults to False.
        contiguous_maps (bool): Whether feature maps are contiguous in memory, as some
            heads of mmseg need. Otherwise they are views of the tokens, whose channels
            come last in memory. Defaults to True.
        attention (str): How attention with a relative position bias is computed in
            training: ``'recompute'``, ``'gather'``, ``'efficient'`` or ``'flex'``,
            which differ in time and memory, see
            :mod:`mmmaskdistill.models.layers.attention_kernels`. ``'gather'`` needs
            ``use_shared_rel_pos_bias`` and no compilation, the last two need a CUDA
            device. Defaults to ``'auto'``: what was found best for the device.
        pretrained (str, optional): A checkpoint, short for
            ``init_cfg=dict(type='Pretrained', checkpoint=pretrained)``. mmseg's
            segmentors pass their own ``pretrained`` on to this argument. It is not used
            if ``init_cfg`` is given.
        init_cfg (dict | list[dict], optional): Initialization. The weights are first
            drawn as BEiT draws them; ``dict(type='Pretrained', checkpoint=...)`` then
            loads a checkpoint, after all other entries. It may contain the arguments of
            :func:`mmmaskdistill.models.checkpoints.load_backbone`.

    Raises:
        ConfigError: If ``arch``, ``out_type``, ``out_indices``, ``output_cls_token``,
            ``drop_path_rate``, ``frozen_stages`` or ``attention`` has a value that is
            not described above.
        ValueError: If the number of heads does not divide the width.
    """

    essential = ESSENTIAL

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
        output_cls_token: bool = False,
        contiguous_maps: bool = True,
        attention: str = 'auto',
        pretrained: str | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
    ):
        if pretrained is not None and init_cfg is not None:
            print_log(
                f'pretrained={pretrained!r} is not used because init_cfg is given',
                logger='current',
            )
        elif pretrained is not None:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg=init_cfg)
        arch = _parse_arch(arch)
        self.embed_dims = self.width = arch['embed_dims']
        self.num_layers = arch['num_layers']
        num_heads = arch['num_heads']

        if out_type not in OUT_TYPES:
            raise ConfigError(
                f'out_type={out_type!r}: expected one of {", ".join(OUT_TYPES)}'
            )
        if not 0 <= drop_path_rate < 1:
            raise ConfigError(
                f'drop_path_rate={drop_path_rate}: expected at least 0 and less than 1'
            )
        if output_cls_token and out_type != 'featmap':
            raise ConfigError(
                f"output_cls_token=True, out_type={out_type!r}: expected 'featmap', "
                'because pairs of a map and a class token are returned'
            )
        self.out_type = out_type
        self.output_cls_token = output_cls_token
        self.contiguous_maps = contiguous_maps
        self.out_indices = _parse_indices(out_indices, self.num_layers)
        if not -1 <= frozen_stages <= self.num_layers:
            raise ConfigError(
                f'frozen_stages={frozen_stages}: expected -1 to '
                f'{self.num_layers}, the number of blocks'
            )
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        _check_attention(attention, use_rel_pos_bias, use_shared_rel_pos_bias)
        self.attention = attention

        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.patch_size = self.stride = patch_size
        self.grid = tuple(math.ceil(side / patch_size) for side in img_size)

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        # An algorithm that masks turns the mask token's gradient on. In downstream
        # tasks no loss depends on the mask token, and DistributedDataParallel refuses
        # a parameter that requires a gradient but gets none.
        self.mask_token = nn.Parameter(
            torch.zeros(1, 1, self.embed_dims), requires_grad=False
        )
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid), self.embed_dims))
            if use_abs_pos_emb
            else None
        )
        self.rel_pos_bias = (
            RelativePositionBias(self.grid, num_heads)
            if use_shared_rel_pos_bias
            else None
        )
        # The model may be built on the device `meta`, which has no values.
        self.drop_path_rates = torch.linspace(
            0, drop_path_rate, self.num_layers, device='cpu'
        ).tolist()
        self.blocks = nn.ModuleList(
            Block(
                self.embed_dims,
                num_heads,
                arch['feedforward_channels'],
                layer_scale_init_value,
                self.grid if use_rel_pos_bias else None,
                attention,
            )
            for _ in range(self.num_layers)
        )
        self.norm = (
            nn.LayerNorm(self.embed_dims, eps=1e-6) if final_norm else nn.Identity()
        )
        if out_type == 'avg_featmap':
            self.fc_norm = nn.LayerNorm(self.embed_dims, eps=1e-6)

        self.register_load_state_dict_pre_hook(fit_before_loading)
        self._freeze()
        last = self.out_indices[-1]
        if last < self.num_layers - 1:
            self.freeze_unused([*self.blocks[last + 1 :], self.norm])

    def forward(
        self, x: Tensor, mask: Tensor | None = None, index: PatchIndex | None = None
    ) -> tuple[Tensor, ...] | Tensor:
        """Compute features as a backbone, or with a mask as the student.

        Args:
            x (Tensor): Images [B, C, H, W], where C is ``in_channels``.
            mask (Tensor, optional): Hidden patches, [B, N] bool, True = hidden.
                Defaults to None: the model is a backbone.
            index (PatchIndex, optional): The mask as indices, if all images hide the
                same number of patches. Without it the host waits for the GPU to count
                the hidden patches. Defaults to None.

        Returns:
            tuple[Tensor, ...] | Tensor: Without a mask, a tuple with one output for
            each block of ``out_indices``; ``out_type`` sets its shape. With a mask, the
            tokens of the hidden patches after the final norm, [mask.sum(), D],
            batch-major. With a mask, subclasses return other tokens.

        Raises:
            ConfigError: If the images have another number of channels, or the mask
                does not have one value for every patch.
        """
        in_channels = self.patch_embed.proj.in_channels
        if x.shape[1] != in_channels:
            raise ConfigError(
                f'the images have {x.shape[1]} channels, the backbone has '
                f'in_channels={in_channels}: set in_channels of the backbone, or let '
                'the pipeline load other channels'
            )
        if mask is not None:
            return self._forward_masked(x, mask, index)
        tokens, grid = self._embed(x)
        bias = self._shared_bias(grid)
        outs = []
        blocks = self.blocks[: max(self.out_indices) + 1]
        draws = self._draw_drop_path(blocks, self.drop_path_rates, tokens)
        for i, block in enumerate(blocks):
            tokens = self._run(block, tokens, grid, bias, None, draws[i])
            if i == self.num_layers - 1:
                tokens = self.norm(tokens)
            if i in self.out_indices:
                outs.append(self._format(tokens, grid))
        return tuple(outs)

    def _forward_masked(
        self, x: Tensor, mask: Tensor, index: PatchIndex | None
    ) -> Tensor:
        """Compute the student's tokens of the hidden patches, [mask.sum(), D].

        This is S(x, m)[m] for the student S, the images x and the mask m of arXiv
        2210.10615, section 3. The last block computes only these tokens, because
        nothing reads the others.
        """
        tokens, grid = self._embed(x, mask)
        bias = self._shared_bias(grid)
        *draws, last = self._draw_drop_path(self.blocks, self.drop_path_rates, tokens)
        for block, draw in zip(self.blocks, draws):
            tokens = self._run(block, tokens, grid, bias, None, draw)
        hidden, not_padding = find(mask if index is None else index.hidden)
        # The class token comes before the patches.
        tokens = self._run(self.blocks[-1], tokens, grid, bias, hidden + 1, last)
        return self.norm(select(tokens, not_padding))

    def _embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple]:
        """Embed images [B, C, H, W]; return tokens [B, 1+N, D] and the patch grid."""
        if self.training and torch.is_grad_enabled():
            self._check_device(x.device)
        x, grid = self.patch_embed(x)
        if mask is not None:
            if mask.shape != x.shape[:2]:
                raise ConfigError(
                    f'mask of shape {tuple(mask.shape)}: expected '
                    f'{tuple(x.shape[:2])}, one value for each of the '
                    f'{grid[0]} x {grid[1]} patches of {len(x)} images'
                )
            x = torch.where(mask[..., None], self.mask_token, x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        if self.pos_embed is not None:
            x = x + resize_position_embedding(self.pos_embed, self.grid, grid)
        return x, grid

    def _shared_bias(self, grid: tuple[int, int]) -> Tensor | None:
        """Compute the bias [heads, 1+N, 1+N] that all blocks share, if there is one."""
        if self.rel_pos_bias is None:
            return None
        bias = self.rel_pos_bias(grid)
        if keeps_for_backward() and self._way(bias) == 'gather':
            return gather_gradients(bias)
        return bias

    def _check_device(self, device: torch.device):
        """Refuse to train with a way of attention that cannot be taken here."""
        if self.attention in ONLY_ON_CUDA and device.type != 'cuda':
            raise ConfigError(
                f'attention={self.attention!r} of the backbone needs a CUDA device, '
                f"but the images are on {device.type}: set attention='auto'"
            )
        if self.attention == 'gather' and self._compiled:
            raise ConfigError(
                "attention='gather' of the backbone does not work in compiled blocks: "
                "set attention='auto' or compile=False"
            )

    def _way(self, bias: Tensor) -> str:
        """Return how attention with a bias [heads, 1+N, 1+N] is computed."""
        if self.attention != 'auto':
            return self.attention
        device = bias.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else bias.dtype
        return choose_way(bias.device, dtype, bias.shape[-1], self._compiled)

    def _draw_drop_path(
        self, blocks: Sequence[Block], rates: Sequence[float], tokens: Tensor
    ) -> list[tuple[Draw | None, Draw | None]]:
        """Draw which samples keep the two branches of each block.

        Args:
            blocks (Sequence[Block]): Those in eval mode drop nothing.
            rates (Sequence[float]): Drop path rate of each block.
            tokens (Tensor): The tokens [B, 1+N, D].

        Returns:
            list[tuple[Draw | None, Draw | None]]: The ``draws`` of each block.
        """
        rates = [rate if b.training else 0.0 for b, rate in zip(blocks, rates)]
        if not any(rates):
            return [(None, None)] * len(rates)
        draws = draw_drop_path(
            np.repeat(rates, 2).tolist(), len(tokens), tokens.device, self._compiled
        )
        return list(zip(draws[::2], draws[1::2]))

    @property
    def _compiled(self) -> bool:
        """Whether the blocks are compiled, or the whole model is being compiled."""
        return torch.compiler.is_compiling() or any(
            block._compiled_call_impl is not None for block in self.blocks
        )

    def _run(self, block: Block, *args) -> Tensor:
        """Call a block, with gradient checkpointing if ``with_cp`` is set."""
        if self.with_cp and self.training:
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def _format(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn a block's tokens [B, 1+N, D] into an output of ``out_type``."""
        if self.out_type == 'raw':
            return tokens
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        if self.out_type == 'featmap':
            maps = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
            if self.contiguous_maps:
                maps = maps.contiguous()
            return (maps, tokens[:, 0]) if self.output_cls_token else maps
        return self.fc_norm(tokens[:, 1:].mean(1))

    def init_weights(self) -> None:
        """Draw the weights as BEiT does, then apply ``init_cfg``.

        Checkpoints are loaded after all other entries of ``init_cfg``.

        Raises:
            CheckpointError: If a checkpoint cannot be read or does not fit.
        """
        self._draw_weights()
        apply_init_cfg(self)

    def select(
        self, tensors: dict[str, Tensor], checkpoint: str, prefix: str | None
    ) -> tuple[dict[str, Tensor], str]:
        """Select the ViT's tensors in a checkpoint; see :class:`FitsCheckpoints`."""
        return select_vit(tensors, checkpoint, prefix)

    def adapt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Give tensors the ViT's names and sizes; see :class:`FitsCheckpoints`."""
        return adapt_to_vit(tensors, shapes_of(self), self.grid)

    def advise(self, given: set[str], wanted: set[str]) -> str:
        """Say which arguments to set for a checkpoint; see :class:`FitsCheckpoints`."""
        return (
            f'The backbone is a ViT of width {self.embed_dims} with {self.num_layers} '
            f'blocks and patches of {self.patch_size} pixels; set '
            f'{vit_settings(given, wanted)} to match the checkpoint'
        )

    @torch.no_grad()
    def _draw_weights(self, std: float = 0.02) -> None:
        """Draw the weights as BEiT does.

        They come from a normal distribution with deviation ``std`` that is cut at
        ``-std`` and ``std``. The last layer of each residual branch is divided by
        ``sqrt(2 * i)`` in block i, counted from 1.
        """
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
        """Return a parameter's depth for layer-wise learning-rate decay.

        Args:
            param_name (str): Name of a parameter of the whole model.
            prefix (str): Prefix of the backbone's parameters in the whole model.

        Returns:
            tuple[int, int]: The parameter's depth and the number of depths, which is
            the number of blocks plus two. The class token, the mask token, the position
            embedding and the patch embedding have depth 0, and block i (counted from 0)
            has depth i + 1. All other parameters, among them the shared relative
            position table and the heads, have the last depth.
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

    def train(self, mode: bool = True) -> 'MaskDistillViT':
        """Set training or eval mode, but keep frozen parts in eval mode.

        Frozen blocks therefore never apply drop path.

        Args:
            mode (bool): True for training mode. Defaults to True.

        Returns:
            MaskDistillViT: The model itself.
        """
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self):
        if self.frozen_stages < 0:
            return
        # The shared relative position bias is added in every block, so it is frozen
        # only if all blocks are.
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


def _check_attention(way: str, use_rel_pos_bias: bool, use_shared_rel_pos_bias: bool):
    if way not in ('auto', *WAYS):
        raise ConfigError(
            f'attention={way!r}: expected auto or one of {", ".join(WAYS)}'
        )
    if way != 'auto' and not (use_rel_pos_bias or use_shared_rel_pos_bias):
        raise ConfigError(
            f'attention={way!r} has no effect without a relative position bias: set '
            "attention='auto', or use_rel_pos_bias or use_shared_rel_pos_bias"
        )
    if way == 'gather' and (use_rel_pos_bias or not use_shared_rel_pos_bias):
        raise ConfigError(
            "attention='gather' has no effect where blocks have a relative position "
            'table of their own: set use_shared_rel_pos_bias=True and '
            'use_rel_pos_bias=False'
        )


def _parse_indices(indices: int | Sequence[int], depth: int) -> list:
    indices = [indices] if isinstance(indices, int) else list(indices)
    for index in indices:
        if not -depth <= index < depth:
            raise ConfigError(
                f'out_indices={indices}: {index} is not one of the {depth} blocks, '
                f'expected {-depth} to {depth - 1}'
            )
    return sorted(index % depth for index in indices)
