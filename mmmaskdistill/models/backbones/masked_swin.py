from mmpretrain.models.selfsup import SimMIMSwinTransformer
from torch import Tensor

from mmmaskdistill.registry import MODELS

from ..layers import PatchIndex
from .student import Student

# Pixels along one side of a position in the last stage's feature map, and of one of the
# patches that the first stage sees.
STRIDE = 32
PATCH = 4


@MODELS.register_module()
class MaskedSwin(SimMIMSwinTransformer, Student):
    """SimMIM's student: a Swin Transformer whose hidden patches become a mask token.

    This is mmpretrain's ``SimMIMSwinTransformer`` with masks on the grid of the last
    stage, one value for every 32 x 32 pixels. Without a mask, and in the keys of its
    checkpoints, it is mmpretrain's ``SwinTransformer``.

    Args:
        arch (str | dict): Swin architecture, see ``SwinTransformer``. Defaults to
            ``'tiny'``.
        img_size (int): Side of the square images in pixels. Defaults to 192.
        **kwargs: Further arguments of ``SimMIMSwinTransformer``.
    """

    tokens = 'all'

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
