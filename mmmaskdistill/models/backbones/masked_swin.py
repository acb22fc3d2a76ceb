from mmpretrain.models.selfsup import SimMIMSwinTransformer
from torch import Tensor

from mmmaskdistill.registry import MODELS

from ..checkpoints import (
    FitsCheckpoints,
    adapt_to_swin,
    apply_init_cfg,
    fit_before_loading,
    select_by_landmark,
    select_under,
    shapes_of,
)
from ..layers import PatchIndex
from .student import Student

# Pixels along one side of a position in the last stage's feature map, and of one of the
# patches that the first stage sees.
STRIDE = 32
PATCH = 4
# A tensor that every Swin of mmpretrain has, and no other backbone.
LANDMARK = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
# Buffers that a Swin computes when it is built. Other sizes have others.
COMPUTED = ('relative_position_index', 'attn_mask')


@MODELS.register_module()
class MaskedSwin(FitsCheckpoints, SimMIMSwinTransformer, Student):
    """SimMIM's student: a Swin Transformer whose hidden patches become a mask token.

    This is mmpretrain's ``SimMIMSwinTransformer`` with masks on the grid of the last
    stage, one value for every 32 x 32 pixels. Without a mask, and in the keys of its
    checkpoints, it is mmpretrain's ``SwinTransformer``. Relative position tables of
    another window size are resized when they are loaded.

    Args:
        arch (str | dict): Swin architecture, see ``SwinTransformer``. Defaults to
            ``'tiny'``.
        img_size (int): Side of the square images in pixels. Defaults to 192.
        **kwargs: Further arguments of ``SimMIMSwinTransformer``. ``init_cfg`` is
            applied after the weights have been drawn as SimMIM draws them;
            ``dict(type='Pretrained', checkpoint=...)`` may contain the arguments of
            :func:`mmmaskdistill.models.checkpoints.load_backbone`.
    """

    tokens = 'all'
    essential = ('stages.', 'patch_embed.', 'absolute_pos_embed')
    # Only a model that reads the maps of the earlier stages has a norm for them.
    optional = ('norm0.', 'norm1.', 'norm2.')

    def __init__(self, arch: str | dict = 'tiny', img_size: int = 192, **kwargs):
        super().__init__(arch=arch, img_size=img_size, **kwargs)
        # An algorithm that masks turns the mask token's gradient on.
        self.mask_token.requires_grad_(False)
        self.grid = (img_size // STRIDE, img_size // STRIDE)
        self.stride = STRIDE
        self.width = self.num_features[-1]
        last = max(self.out_indices)
        unused = self.stages[last + 1 :]
        if len(unused):
            self.freeze_unused([*unused, self.stages[last].downsample])

    def forward(
        self, x: Tensor, mask: Tensor | None = None, index: PatchIndex | None = None
    ) -> tuple[Tensor, ...] | Tensor:
        """Compute features as a backbone, or with a mask as the student.

        Args:
            x (Tensor): Images [B, C, H, W]. With a mask, H and W must be ``img_size``.
            mask (Tensor, optional): Hidden patches of the last stage's grid, [B, N]
                bool, True = hidden, where N = h*w and (h, w) is ``grid``.
                Defaults to None: the model is a backbone.
            index (PatchIndex, optional): Not used, since all patches are computed.

        Returns:
            tuple[Tensor, ...] | Tensor: Without a mask, the feature maps of the stages
            ``out_indices`` as mmpretrain's ``SwinTransformer`` returns them, by default
            the last one, [B, D, h, w]. With a mask, the tokens of all patches of the
            last map, [B, N, D], in row-major order.
        """
        if mask is None:
            return super().forward(x, None)
        # Swin needs a mask of its own patches, [B, H/4, W/4], which are finer than
        # those of the last stage.
        fine = mask.unflatten(1, self.grid).int()
        for dim in (1, 2):
            fine = fine.repeat_interleave(STRIDE // PATCH, dim)
        return super().forward(x, fine)[-1].flatten(2).mT  # [B, N, D]

    def init_weights(self) -> None:
        """Draw the weights as SimMIM does, then apply ``init_cfg``.

        Raises:
            CheckpointError: If a checkpoint cannot be read or does not fit.
        """
        # mmpretrain loads a checkpoint without a check of what it covers.
        init_cfg, self.init_cfg = self.init_cfg, None
        super().init_weights()
        self.init_cfg = init_cfg
        apply_init_cfg(self)

    def select(
        self, tensors: dict[str, Tensor], checkpoint: str, prefix: str | None
    ) -> tuple[dict[str, Tensor], str]:
        """Select the Swin's tensors in a checkpoint; see :class:`FitsCheckpoints`."""
        if prefix is None:
            return select_by_landmark(LANDMARK, tensors, checkpoint)
        return select_under(prefix, tensors, checkpoint)

    def adapt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Give tensors the Swin's sizes; see :class:`FitsCheckpoints`."""
        own = {k: v for k, v in self.state_dict().items() if k.endswith(COMPUTED)}
        given = {k: v for k, v in tensors.items() if not k.endswith(COMPUTED)}
        given, notes = adapt_to_swin(given, shapes_of(self), self.patch_resolution)
        return given | own, notes

    def advise(self, given: set[str], wanted: set[str]) -> str:
        """Say what the backbone is; see :class:`FitsCheckpoints`."""
        return (
            f'The backbone is a Swin of width {self.embed_dims} with '
            f'{" + ".join(map(str, self.depths))} blocks; set arch to that of the '
            'checkpoint'
        )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs):
        # It must happen before mmpretrain's own hooks, which resize tables, too, but
        # leave out the buffers that depend on their size.
        fit_before_loading(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
