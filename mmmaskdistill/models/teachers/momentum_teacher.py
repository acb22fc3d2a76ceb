from copy import deepcopy

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..backbones import MaskDistillViT
from .base import Teacher


@MODELS.register_module()
class MomentumTeacher(Teacher):
    """T: a moving average of the student, which sees the whole image.

    Its features are the mean of the last blocks' outputs, each normalized as
    by ``LayerNormalizer`` (data2vec, arXiv 2202.03555, section 3.3).

    Its weights cannot be had from elsewhere, so they are in checkpoints, as
    buffers: no optimizer sees them.

    Args:
        momentum (float): Share of itself that the average keeps at a step.
            Defaults to 0.9998.
        num_layers (int): Blocks to average, from the end. Defaults to 6.
    """

    def __init__(self, momentum: float = 0.9998, num_layers: int = 6):
        nn.Module.__init__(self)
        self.momentum = momentum
        self.num_layers = num_layers

    def follow(self, student: nn.Module):
        """Become a copy of the student, whose average it will be."""
        if not isinstance(student, MaskDistillViT):
            raise ConfigError(
                'MomentumTeacher averages a MaskDistillViT, the student is a '
                f'{type(student).__name__}: take another teacher or student'
            )
        if not 0 < self.num_layers <= student.num_layers:
            raise ConfigError(
                f'num_layers={self.num_layers}: expected 1 to '
                f'{student.num_layers}, the blocks of the student'
            )
        self.stride = student.patch_size
        self.grid = student.patch_resolution
        self.channels = student.embed_dims
        model = deepcopy(student)
        model.out_type = 'featmap'
        model.out_indices = list(
            range(student.num_layers - self.num_layers, student.num_layers)
        )
        # Blocks' outputs are wanted, the last one's too.
        model.norm = nn.Identity()
        for module in model.modules():
            for name, p in list(module._parameters.items()):
                if p is not None:
                    del module._parameters[name]
                    module.register_buffer(name, p.detach())
        self.model = model.eval()

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float | None = None):
        """One step of the average; ``momentum=0`` copies the student."""
        momentum = self.momentum if momentum is None else momentum
        own = dict(self.model.named_buffers())
        for name, p in student.named_parameters():
            if name in own:
                own[name].lerp_(p.to(own[name].dtype), 1 - momentum)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Features [B, N, D] of normalized images [B, 3, H, W]."""
        maps = torch.stack(self.model(images))  # [K, B, D, h, w]
        tokens = maps.flatten(3).mT
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6).mean(0)
