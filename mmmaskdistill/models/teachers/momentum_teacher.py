"""A teacher that is a moving average of the student."""

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
    """A moving average of the student as teacher T. It sees the whole image.

    Its features are the mean of the outputs of its last blocks, each normalized
    as ``LayerNormalizer`` does (data2vec, arXiv 2202.03555, section 3.3).

    The weights of the average exist nowhere else, so checkpoints contain them.
    They are buffers and not parameters, because no optimizer may update them.

    ``MomentumTeacherHook`` moves the average after each step of the optimizer.

    The image size, the patch grid, the stride and the channels are those of the
    student; they are known after :meth:`follow`.

    Args:
        momentum (float): Weight of the old average in an update; the weight of
            the student is ``1 - momentum``. Defaults to 0.9998.
        num_layers (int): Number of blocks, counted from the last one, whose
            outputs are averaged. Defaults to 6.
    """

    follows_student = True

    def __init__(self, momentum: float = 0.9998, num_layers: int = 6):
        # Teacher.__init__ needs the image size, which only the student knows.
        nn.Module.__init__(self)
        self.momentum = momentum
        self.num_layers = num_layers

    def follow(self, student: nn.Module) -> None:
        """Become a copy of the student, to be averaged by :meth:`update`.

        Args:
            student (nn.Module): The student, a ``MaskDistillViT``.

        Raises:
            ConfigError: If the student is another model, or has fewer than
                ``num_layers`` blocks.
        """
        if not isinstance(student, MaskDistillViT):
            raise ConfigError(
                'MomentumTeacher can average only a MaskDistillViT, but the '
                f'student is a {type(student).__name__}: use another teacher or '
                'another student'
            )
        if not 0 < self.num_layers <= student.num_layers:
            raise ConfigError(
                f'num_layers={self.num_layers}: expected 1 to '
                f'{student.num_layers}, the number of blocks of the student'
            )
        self.stride = student.stride
        self.grid = student.grid
        self.img_size = tuple(side * self.stride for side in self.grid)
        self.channels = student.width
        model = deepcopy(student)
        model.out_type = 'featmap'
        model.out_indices = list(
            range(student.num_layers - self.num_layers, student.num_layers)
        )
        # The final norm would change the output of the last block.
        model.norm = nn.Identity()
        for module in model.modules():
            for name, p in list(module._parameters.items()):
                if p is not None:
                    del module._parameters[name]
                    module.register_buffer(name, p.detach())
        self.model = model.eval()

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float | None = None) -> None:
        """Move the average one step towards the student.

        Args:
            student (nn.Module): The student that was given to :meth:`follow`.
            momentum (float, optional): Weight of the old average; 0 copies the
                student. Defaults to None, the teacher's ``momentum``.
        """
        momentum = self.momentum if momentum is None else momentum
        own = dict(self.model.named_buffers())
        for name, p in student.named_parameters():
            if name in own:
                own[name].lerp_(p.to(own[name].dtype), 1 - momentum)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Compute the mean of the normalized outputs of the last blocks.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            data_samples (list[DataSample], optional): Not used.

        Returns:
            Tensor: Features [B, N, D].
        """
        maps = torch.stack(self.model(images))  # [num_layers, B, D, h, w]
        tokens = maps.flatten(3).mT  # [num_layers, B, N, D]
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6).mean(0)
