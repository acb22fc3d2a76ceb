from mmpretrain.models.selfsup import SimMIMSwinTransformer
from torch import Tensor

from mmmaskdistill.registry import MODELS

STRIDE = 32  # of the last stage
PATCH = 4


@MODELS.register_module()
class MaskedSwin(SimMIMSwinTransformer):
    """S as SimMIM has it: Swin, hidden patches become a mask token.

    mmpretrain's ``SimMIMSwinTransformer`` for masks on the last stage's grid,
    of 32 pixels; with a mask ``forward`` gives every patch of it, [B, N, D].
    Without a mask, and in its checkpoints, it is mmpretrain's
    ``SwinTransformer``, whose arguments these are.
    """

    gives = 'all'

    def __init__(self, arch='tiny', img_size: int = 192, **kwargs):
        super().__init__(arch=arch, img_size=img_size, **kwargs)
        # Without gradient until an algorithm that masks switches it on.
        self.mask_token.requires_grad_(False)
        self.patch_resolution = (img_size // STRIDE, img_size // STRIDE)
        self.out_channels = self.num_features[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None):
        if mask is None:
            return super().forward(x, None)
        fine = mask.unflatten(1, self.patch_resolution).int()
        for dim in (1, 2):
            fine = fine.repeat_interleave(STRIDE // PATCH, dim)
        return super().forward(x, fine)[-1].flatten(2).mT
